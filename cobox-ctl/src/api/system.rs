//! The device as a whole: status, keys, system, logs, connections, alarms, events.

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use cobox_net::Connection;
use cobox_net::http::events::News;
use cobox_net::http::{Fault, Wanted, recent};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Shared};
use crate::control::Request;
use crate::daemon::Daemon;
use crate::report::{AlarmSettings, ApiReport, KeyReport, StatusReport};

/// Lines of the log without a wish for more.
const LINES: usize = 200;

/// The program and its machine.
#[derive(Serialize, ToSchema)]
struct System {
    /// Of the program.
    version: String,
    /// Its process id.
    pid: u32,
    /// How long it runs.
    uptime_s: u64,
    /// What people call the device.
    label: String,
    /// Its libp2p identity.
    peer_id: String,
    /// Room on the disk of the store.
    disk_free_bytes: u64,
    /// Size of that disk.
    disk_total_bytes: u64,
    /// Where this API answers.
    api: ApiReport,
}

/// Open connections.
#[derive(Serialize, ToSchema)]
struct Connections {
    connections: Vec<Connection>,
}

/// Lines of the daemon's log.
#[derive(Serialize, ToSchema)]
struct Logs {
    /// Oldest first.
    lines: Vec<String>,
}

/// How many lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogsWanted {
    /// The newest of them; 200 without it, 1000 at the most.
    lines: Option<usize>,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(keys))
        .routes(routes!(system))
        .routes(routes!(logs))
        .routes(routes!(connections))
        .routes(routes!(alarm))
        .routes(routes!(events))
}

/// Everything about this device and its folders
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = StatusReport), (status = "default", body = Fault)))]
async fn status(State(api): Api) -> Answer<StatusReport> {
    api.ask(Request::Status { folder: None }).await
}

/// The public side of this device's keys; secret keys never leave it
#[utoipa::path(get, path = "/v1/keys", responses((status = 200, body = KeyReport), (status = "default", body = Fault)))]
async fn keys(State(api): Api) -> Answer<KeyReport> {
    api.ask(Request::KeyShow).await
}

/// The program and its machine
#[utoipa::path(get, path = "/v1/system", responses((status = 200, body = System), (status = "default", body = Fault)))]
async fn system(State(api): Api) -> Answer<System> {
    let uptime_s = api.started.elapsed().as_secs();
    let report = api.run(move |daemon| {
        let disk = daemon.home.store().disk()?;
        Ok(System {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s,
            label: daemon.home.label(),
            peer_id: daemon.node.peer_id().to_string(),
            disk_free_bytes: disk.free_bytes,
            disk_total_bytes: disk.total_bytes,
            api: daemon.api_report(),
        })
    });
    report.await.map(Json)
}

/// The newest lines of the daemon's log, without names of folders, directories and devices
#[utoipa::path(get, path = "/v1/logs", params(LogsWanted), responses((status = 200, body = Logs), (status = "default", body = Fault)))]
async fn logs(State(api): Api, Wanted(wanted): Wanted<LogsWanted>) -> Answer<Logs> {
    let most = wanted.lines.unwrap_or(LINES);
    let lines = api.run(move |daemon| {
        let names = names(daemon);
        Ok(recent::lines(most).into_iter().map(|line| veil(line, &names)).collect())
    });
    Ok(Json(Logs { lines: lines.await? }))
}

/// What a line must not show: a sentence of an error may name a folder or a directory.
fn names(daemon: &Daemon) -> Vec<String> {
    let mut names = vec![daemon.paths.home.display().to_string(), daemon.home.label()];
    for state in daemon.folders() {
        names.push(state.folder.name());
        names.extend(state.mount_report().map(|mount| mount.dir.display().to_string()));
    }
    // The longest first: a name may be part of a path.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names
}

/// Replaces names where they stand alone; a name that is an ordinary word hides that word too.
fn veil(line: String, names: &[String]) -> String {
    const VEIL: &str = "[...]";
    let joins = |other: Option<char>| other.is_some_and(|other| other.is_alphanumeric() || other == '_');
    let mut line = line;
    for name in names.iter().filter(|name| !name.is_empty()) {
        let mut kept = String::with_capacity(line.len());
        let mut rest = line.as_str();
        while let Some((before, after)) = rest.split_once(name.as_str()) {
            let apart = !joins(before.chars().next_back()) && !joins(after.chars().next());
            kept.push_str(before);
            kept.push_str(if apart { VEIL } else { name });
            rest = after;
        }
        kept.push_str(rest);
        line = kept;
    }
    line
}

/// Open connections, whatever folders are synced over them
#[utoipa::path(get, path = "/v1/connections", responses((status = 200, body = Connections), (status = "default", body = Fault)))]
async fn connections(State(api): Api) -> Answer<Connections> {
    Ok(Json(Connections { connections: api.daemon()?.node.connections() }))
}

/// Where alarms go. They are set on the command line only: one of them runs a program
#[utoipa::path(get, path = "/v1/alarm", responses((status = 200, body = AlarmSettings), (status = "default", body = Fault)))]
async fn alarm(State(api): Api) -> Answer<AlarmSettings> {
    api.ask(Request::AlarmShow).await
}

/// What happens from now on, as server-sent events; the data of each is an object of the schema `News`
#[utoipa::path(get, path = "/v1/events", responses((status = 200, body = News, content_type = "text/event-stream"), (status = "default", body = Fault)))]
async fn events(State(api): Api) -> Result<impl IntoResponse, Fault> {
    let stream = api.hub.listen()?;
    let shared = std::sync::Arc::clone(&api);
    let begin = move |daemon: &std::sync::Arc<Daemon>| {
        super::news::begin(&shared, daemon);
        Ok(())
    };
    api.run(begin).await?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_veiled_where_they_stand_alone() {
        let names = ["/home/ann/tax papers".to_owned(), "tax papers".to_owned(), "a".to_owned()];
        let line = "WARN \"tax papers\" at /home/ann/tax papers: a pack; taxes, tax papersx".to_owned();
        assert_eq!(veil(line, &names), "WARN \"[...]\" at [...]: [...] pack; taxes, tax papersx");
    }
}
