//! What the event stream tells: looked for once a second, while somebody listens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cobox_net::http::events::{Changes, News};

use super::Shared;
use crate::daemon::Daemon;
use crate::exit::{Outcome, Problem};
use crate::render::health::{FolderHealth, judge};

/// How often news is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// What was there at the last look.
#[derive(Default)]
pub(super) struct Seen {
    peers: BTreeSet<String>,
    health: BTreeMap<String, FolderHealth>,
    alarms: BTreeSet<(String, String)>,
}

/// Starts the thread that looks; it ends with the API.
pub(super) fn start(daemon: &Arc<Daemon>, shared: &Arc<Shared>) -> Outcome<()> {
    let changes = Changes::of(daemon.home.store(), &shared.hub);
    let shared = Arc::downgrade(shared);
    std::thread::Builder::new()
        .name("news".to_owned())
        .spawn(move || follow(&shared, &changes))
        .map(drop)
        .map_err(|error| Problem::failed(format!("A thread cannot be started: {error}.")))
}

/// Looks once for who begins to listen: what changes after this is told.
pub(super) fn begin(shared: &Shared, daemon: &Daemon) {
    let mut seen = shared.seen.lock();
    if seen.is_none() {
        *seen = Some(look(daemon));
    }
}

fn follow(shared: &Weak<Shared>, changes: &Changes) {
    loop {
        std::thread::sleep(LOOK);
        let Some(api) = shared.upgrade() else { return };
        let Ok(daemon) = api.daemon() else { return };
        let mut seen = api.seen.lock();
        let Some(before) = seen.take().filter(|_| api.hub.is_heard()) else { continue };
        for no in changes.take() {
            if let Some(state) = daemon.folders().into_iter().find(|state| state.no() == no) {
                api.hub.tell(News { folder: Some(state.folder.id().to_hex()), ..News::of("folder-changed") });
            }
        }
        let now = look(&daemon);
        compare(&before, &now).into_iter().for_each(|news| api.hub.tell(news));
        *seen = Some(now);
    }
}

fn look(daemon: &Daemon) -> Seen {
    let mut seen = Seen {
        peers: daemon.node.connections().into_iter().map(|connection| connection.peer).collect(),
        ..Seen::default()
    };
    for state in daemon.folders() {
        let Ok(report) = daemon.folder_report(&state) else { continue };
        seen.alarms.extend(report.alarms.iter().map(|alarm| (report.id.clone(), alarm.what.clone())));
        seen.health.insert(report.id.clone(), judge(&report));
    }
    seen
}

fn compare(before: &Seen, now: &Seen) -> Vec<News> {
    let mut news = Vec::new();
    for (what, some, others) in
        [("peer-up", &now.peers, &before.peers), ("peer-down", &before.peers, &now.peers)]
    {
        news.extend(some.difference(others).map(|peer| News { peer: Some(peer.clone()), ..News::of(what) }));
    }
    let copies =
        |health: &FolderHealth| (health.light, health.copies, health.copies_late, health.copies_wanted);
    for (folder, health) in &now.health {
        if before.health.get(folder).map(copies) != Some(copies(health)) {
            let light = serde_json::to_value(health.light).ok();
            let light = light.and_then(|light| light.as_str().map(str::to_owned));
            news.push(News { folder: Some(folder.clone()), now: light, ..News::of("copies-changed") });
        }
    }
    for (folder, what) in now.alarms.difference(&before.alarms) {
        let now = Some(what.clone());
        news.push(News { folder: Some(folder.clone()), now, ..News::of("alarm") });
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::health::Light;

    fn health(light: Light, copies: u32) -> FolderHealth {
        FolderHealth {
            folder: "photos".into(),
            light,
            copies,
            copies_late: 0,
            copies_wanted: 1,
            tolerance_ms: 1,
            proved_at_ms: None,
            packs_lost: 0,
            missing: Vec::new(),
        }
    }

    #[test]
    fn news_are_what_differs_and_nothing_else() {
        let before = Seen {
            peers: ["a".to_owned(), "b".to_owned()].into(),
            health: [("f".to_owned(), health(Light::Red, 0))].into(),
            alarms: [("f".to_owned(), "old".to_owned())].into(),
        };
        let now = Seen {
            peers: ["b".to_owned(), "c".to_owned()].into(),
            health: [("f".to_owned(), health(Light::Green, 1))].into(),
            alarms: [("f".to_owned(), "old".to_owned()), ("f".to_owned(), "new".to_owned())].into(),
        };
        let told: Vec<String> = compare(&before, &now).into_iter().map(|news| news.what).collect();
        assert_eq!(told, ["peer-up", "peer-down", "copies-changed", "alarm"]);
        assert!(compare(&now, &now).is_empty());
    }
}
