//! The seeder's HTTP API: what it holds and how it is, and what waits for its owner. What the owner has done is in `acts.rs`.
//!
//! It carries out the same requests as the command socket. Nothing here names a folder other than by its
//! id, for the seeder knows no other name.

mod acts;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::commands::{Answer, FolderStatus, Request, Waiting, carry_out};
use super::holding::Holding;
use super::orders::Orders;
use super::{Failure, STOP_WAIT};
use crate::http::events::{Changes, News};
use crate::http::exposition::folder_label;
use crate::http::{Exposition, Fault, Hub, Kind, Named, Place, Server, Token, Wanted, recent};
use crate::node::Node;
use crate::status::Connection;

/// How often the event stream looks for news, while somebody listens.
const LOOK: Duration = Duration::from_secs(1);
/// Below this a disk is as good as full: RocksDB needs room to make room.
const DISK_LOW_BYTES: u64 = 256 << 20;

/// What the handlers share.
pub struct Shared {
    holding: Arc<Holding>,
    orders: Arc<Orders>,
    node: Node,
    hub: Hub,
    /// Nothing while nobody listens.
    seen: Mutex<Option<Seen>>,
    started: Instant,
}

type Api = State<Arc<Shared>>;

/// What a seeder holds.
#[derive(Serialize, ToSchema)]
struct Status {
    /// Its libp2p identity.
    peer_id: String,
    /// Where it listens, as multiaddresses.
    listen: Vec<String>,
    /// What members add: `seeder add` takes it.
    address: Option<String>,
    /// Whether it takes part in nothing for now.
    paused: bool,
    /// Whether somebody owns it.
    owned: bool,
    /// Room on its disk.
    disk_free_bytes: u64,
    /// The folders it holds.
    folders: Vec<FolderStatus>,
}

/// Grants that wait for the owner.
#[derive(Serialize, ToSchema)]
struct Pending {
    grants: Vec<Waiting>,
}

/// How a decision ended.
#[derive(Serialize, ToSchema)]
struct Decision {
    /// `accepted`, `refused`, or `already` where it was accepted before.
    answer: String,
    /// The folder's id in hex.
    folder: String,
    /// What was accepted.
    quota_bytes: Option<u64>,
    /// Until when, in milliseconds since 1970; 0 for no end.
    until_ms: Option<u64>,
}

/// Open connections.
#[derive(Serialize, ToSchema)]
struct Connections {
    connections: Vec<Connection>,
}

/// The program and its machine.
#[derive(Serialize, ToSchema)]
struct System {
    /// Of the program.
    version: String,
    /// Its process id.
    pid: u32,
    /// How long it runs.
    uptime_s: u64,
    /// Its libp2p identity.
    peer_id: String,
    /// Room on its disk.
    disk_free_bytes: u64,
    /// Size of its disk.
    disk_total_bytes: u64,
}

/// Whether it can do its work.
#[derive(Serialize, ToSchema)]
struct Health {
    /// In one word.
    well: bool,
    /// What is wrong, one sentence each.
    problems: Vec<String>,
}

/// Lines of the program's log.
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

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure.missing {
            true => Self::missing(failure.text, ""),
            false => Self::of_exit(failure.exit as u8, failure.text, ""),
        }
    }
}

/// Carries out what the command socket would, off the async threads.
async fn ask(api: &Arc<Shared>, request: Request) -> Result<Answer, Fault> {
    let api = Arc::clone(api);
    let obey = move || carry_out(&request, &api.holding, &api.orders, &api.node);
    let done = tokio::task::spawn_blocking(obey).await;
    done.map_err(|_| Fault::failed("The request failed inside the program; its log says more."))?
        .map_err(Fault::from)
}

fn unexpected() -> Fault {
    Fault::failed("The program gave another answer than this request has.")
}

/// What it holds, for whom, and how much room is left
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), (status = "default", body = Fault)))]
async fn status(State(api): Api) -> Result<Json<Status>, Fault> {
    Ok(Json(status_of(&api).await?))
}

async fn status_of(api: &Arc<Shared>) -> Result<Status, Fault> {
    match ask(api, Request::Status).await? {
        Answer::Status { peer_id, listen, folders, disk_free_bytes, paused, owned, address, .. } => {
            Ok(Status { peer_id, listen, address, paused, owned, disk_free_bytes, folders })
        }
        _ => Err(unexpected()),
    }
}

/// Grants that wait for the owner
#[utoipa::path(get, path = "/v1/pending", responses((status = 200, body = Pending), (status = "default", body = Fault)))]
async fn pending(State(api): Api) -> Result<Json<Pending>, Fault> {
    match ask(&api, Request::Pending).await? {
        Answer::Pending { grants } => Ok(Json(Pending { grants })),
        _ => Err(unexpected()),
    }
}

/// Take a grant, under the terms that the list showed: its id names them
#[utoipa::path(post, path = "/v1/pending/{id}/accept", params(("id" = String, Path, description = "As listed, whole")),
    responses((status = 200, body = Decision), (status = "default", body = Fault)))]
async fn accept(State(api): Api, Named(id): Named<String>) -> Result<Json<Decision>, Fault> {
    decision(ask(&api, Request::Accept { id }).await?)
}

/// Refuse a grant
#[utoipa::path(post, path = "/v1/pending/{id}/refuse", params(("id" = String, Path, description = "As listed, or the beginning of the folder's id")),
    responses((status = 200, body = Decision), (status = "default", body = Fault)))]
async fn refuse(State(api): Api, Named(id): Named<String>) -> Result<Json<Decision>, Fault> {
    decision(ask(&api, Request::Refuse { id }).await?)
}

fn decision(answer: Answer) -> Result<Json<Decision>, Fault> {
    let plain = |answer: &str, folder| Decision {
        answer: answer.to_owned(),
        folder,
        quota_bytes: None,
        until_ms: None,
    };
    Ok(Json(match answer {
        Answer::Accepted { folder, quota_bytes, until_ms } => {
            Decision { quota_bytes: Some(quota_bytes), until_ms: Some(until_ms), ..plain("accepted", folder) }
        }
        Answer::Refused { folder } => plain("refused", folder),
        Answer::Already { folder } => plain("already", folder),
        _ => return Err(unexpected()),
    }))
}

/// Open connections, whoever they are from
#[utoipa::path(get, path = "/v1/connections", responses((status = 200, body = Connections), (status = "default", body = Fault)))]
async fn connections(State(api): Api) -> Json<Connections> {
    Json(Connections { connections: api.node.connections() })
}

/// The program and its machine
#[utoipa::path(get, path = "/v1/system", responses((status = 200, body = System), (status = "default", body = Fault)))]
async fn system(State(api): Api) -> Result<Json<System>, Fault> {
    let disk = disk(&api)?;
    Ok(Json(System {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: api.started.elapsed().as_secs(),
        peer_id: api.node.peer_id().to_string(),
        disk_free_bytes: disk.free_bytes,
        disk_total_bytes: disk.total_bytes,
    }))
}

fn disk(api: &Shared) -> Result<cobox_store::blind::DiskSpace, Fault> {
    api.holding.store.disk().map_err(|error| Failure::from(error).into())
}

/// The newest lines of the program's log; it names no folder and no secret
#[utoipa::path(get, path = "/v1/logs", params(LogsWanted), responses((status = 200, body = Logs), (status = "default", body = Fault)))]
async fn logs(Wanted(wanted): Wanted<LogsWanted>) -> Json<Logs> {
    Json(Logs { lines: recent::lines(wanted.lines.unwrap_or(200)) })
}

/// What happens from now on, as server-sent events; the data of each is an object of the schema `News`
#[utoipa::path(get, path = "/v1/events", responses((status = 200, body = News, content_type = "text/event-stream"), (status = "default", body = Fault)))]
async fn events(State(api): Api) -> Result<impl IntoResponse, Fault> {
    let stream = api.hub.listen()?;
    let shared = Arc::clone(&api);
    let begin = move || {
        let mut seen = shared.seen.lock();
        if seen.is_none() {
            *seen = Some(look(&shared));
        }
    };
    tokio::task::spawn_blocking(begin).await.map_err(|_| unexpected())?;
    Ok(stream)
}

/// Whether it can do its work: 200 when it can, 503 when it cannot
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health), (status = 503, body = Health), (status = "default", body = Fault)))]
async fn healthz(State(api): Api) -> Response {
    let mut problems = Vec::new();
    match disk(&api) {
        Ok(disk) if disk.free_bytes < DISK_LOW_BYTES => {
            problems.push(format!("The disk is full: {} left.", crate::shown::bytes(disk.free_bytes)));
        }
        Ok(_) => {}
        Err(fault) => problems.push(fault.detail),
    }
    if api.node.listen_texts().is_empty() {
        problems.push("It listens at no address.".to_owned());
    }
    let status = if problems.is_empty() { 200 } else { 503 };
    let status = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    (status, Json(Health { well: problems.is_empty(), problems })).into_response()
}

/// Figures for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Fault)))]
async fn metrics(State(api): Api) -> Result<Exposition, Fault> {
    let status = status_of(&api).await?;
    let disk = disk(&api)?;
    let mut page = Exposition::default();
    page.single(
        "cobox_uptime_seconds",
        Kind::Gauge,
        "Since the program began.",
        api.started.elapsed().as_secs(),
    );
    page.single("cobox_disk_free_bytes", Kind::Gauge, "Room on the store's disk.", disk.free_bytes);
    page.single("cobox_connections", Kind::Gauge, "Open connections.", api.node.connections().len());
    page.single("cobox_folders", Kind::Gauge, "Folders that are held.", status.folders.len());
    let refusals =
        api.node.refusals().into_iter().map(|(what, count)| (vec![("what", what.to_owned())], count));
    page.metric("cobox_refusals_total", Kind::Counter, "What was refused, by kind.", refusals);
    let mut each = |name, help, value: &dyn Fn(&FolderStatus) -> Option<u64>| {
        let samples =
            status.folders.iter().filter_map(|folder| Some((folder_label(&folder.folder), value(folder)?)));
        page.metric(name, Kind::Gauge, help, samples);
    };
    each("cobox_grant_bytes", "Bytes that count against a folder's quota.", &|folder| {
        Some(folder.pack_bytes.saturating_add(folder.entry_bytes))
    });
    each("cobox_grant_quota_bytes", "A folder's quota.", &|folder| folder.quota_bytes);
    each(
        "cobox_grant_until_seconds",
        "When a folder's grant or agreement ends, since 1970; none without an end.",
        &|folder| (folder.until_ms > 0).then_some(folder.until_ms / 1000),
    );
    each(
        "cobox_grant_heard_age_seconds",
        "How long ago a member of a folder had a session open; none where nobody ever had.",
        &|folder| folder.heard_ms.map(|heard_ms| crate::driver::now_ms().saturating_sub(heard_ms) / 1000),
    );
    each("cobox_grant_packs", "Packs of a folder.", &|folder| Some(folder.packs));
    each("cobox_grant_packs_missing", "Packs of a folder that are not here yet.", &|folder| {
        Some(folder.packs_missing)
    });
    each("cobox_grant_held_bytes", "Released bytes that are kept for a while.", &|folder| {
        Some(folder.held_bytes)
    });
    each("cobox_packs_damaged", "Packs in which damage was found since the folder is here.", &|folder| {
        Some(folder.packs_damaged)
    });
    each("cobox_packs_unmended", "Those of them that no other holder has mended yet.", &|folder| {
        Some(folder.packs_unmended)
    });
    each(
        "cobox_scrub_ended_seconds",
        "When all of a folder was last read for damage, since 1970.",
        &|folder| (folder.scrubbed_ms > 0).then_some(folder.scrubbed_ms / 1000),
    );
    each("cobox_grant_peers", "Peers with an open session, by folder.", &|folder| Some(folder.peers));
    Ok(page)
}

/// What was there at the last look for news.
#[derive(Default)]
struct Seen {
    peers: BTreeSet<String>,
    grants: BTreeSet<String>,
    /// What the owner was warned of, by folder.
    warnings: BTreeSet<(String, &'static str)>,
}

fn look(api: &Shared) -> Seen {
    let holding = &api.holding;
    let warned = holding.told_words().into_iter();
    let warned = warned.filter_map(|(no, word)| Some((holding.store.folder_id(no).ok()?.to_hex(), word)));
    Seen {
        warnings: warned.collect(),
        peers: api.node.connections().into_iter().map(|connection| connection.peer).collect(),
        grants: api.holding.list_pending().iter().map(super::holding::PendingGrant::id).collect(),
    }
}

/// Tells news until nobody holds the other end of `stop`.
fn follow(shared: &Weak<Shared>, changes: &Changes, stop: &Receiver<()>) {
    while stop.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let Some(api) = shared.upgrade() else { return };
        let mut seen = api.seen.lock();
        let Some(before) = seen.take().filter(|_| api.hub.is_heard()) else { continue };
        for no in changes.take() {
            if let Ok(folder) = api.holding.store.folder_id(no) {
                api.hub.tell(News { folder: Some(folder.to_hex()), ..News::of("folder-changed") });
            }
        }
        let now = look(&api);
        for (what, some, others) in
            [("peer-up", &now.peers, &before.peers), ("peer-down", &before.peers, &now.peers)]
        {
            for peer in some.difference(others) {
                api.hub.tell(News { peer: Some(peer.clone()), ..News::of(what) });
            }
        }
        for id in now.grants.difference(&before.grants) {
            api.hub.tell(News { now: Some(id.clone()), ..News::of("grant-waits") });
        }
        for (folder, word) in now.warnings.difference(&before.warnings) {
            let (folder, now) = (Some(folder.clone()), Some((*word).to_owned()));
            api.hub.tell(News { folder, now, ..News::of("grant-warning") });
        }
        *seen = Some(now);
    }
}

/// The routes and the document that describes them.
fn routes() -> OpenApiRouter<Arc<Shared>> {
    let info = InfoBuilder::new().title("CoBox seeder").version(env!("CARGO_PKG_VERSION")).description(Some(
        "What a seeder holds and how it is, and what its owner may have done on the machine.",
    ));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
        .routes(routes!(healthz))
        .routes(routes!(metrics))
        .routes(routes!(status))
        .routes(routes!(pending))
        .routes(routes!(accept))
        .routes(routes!(refuse))
        .routes(routes!(connections))
        .routes(routes!(system))
        .routes(routes!(logs))
        .routes(routes!(events))
        .merge(acts::routes())
}

/// The OpenAPI document.
#[must_use]
pub fn document() -> OpenApi {
    routes().into_openapi()
}

/// A running API.
pub struct Running {
    server: Server,
    news: JoinHandle<()>,
    /// Nothing is ever said here: the news end when it goes.
    news_open: Sender<()>,
}

impl Running {
    /// Ends it; what it held of the seeder is free then, unless an answer takes too long.
    pub fn stop(self) {
        self.server.stop_and_wait(STOP_WAIT);
        drop(self.news_open);
        let _ = self.news.join();
    }
}

/// Answers from now on: on the socket in the data folder, and on TCP where `place` says so.
///
/// # Errors
/// When it cannot listen.
pub fn start(
    data: &Path,
    place: Option<&Place>,
    holding: &Arc<Holding>,
    orders: &Arc<Orders>,
    node: &Node,
) -> Result<Running, Failure> {
    let hub = Hub::default();
    let changes = Changes::of(&holding.store, &hub);
    let shared = Arc::new(Shared {
        holding: Arc::clone(holding),
        orders: Arc::clone(orders),
        node: node.clone(),
        hub,
        seen: Mutex::default(),
        started: Instant::now(),
    });
    let weak = Arc::downgrade(&shared);
    let (news_open, stop) = channel();
    let news = std::thread::Builder::new()
        .name("news".to_owned())
        .spawn(move || follow(&weak, &changes, &stop))
        .map_err(|error| Failure::failed(format!("A thread cannot be started: {error}.")))?;
    let (router, document) = routes().split_for_parts();
    let describe = move || async move { Json(document) };
    let router: Router = router.route("/openapi.json", axum::routing::get(describe)).with_state(shared);
    let server = Server::start(router, data.join("api.sock"))?;
    if let Some(place) = place {
        let address = server.listen_tcp(place, Token::open_or_create(&data.join("api.token"))?)?;
        tracing::info!(%address, "the API listens on TCP");
    }
    Ok(Running { server, news, news_open })
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        use super::Exit;
        let exit = [Exit::Usage, Exit::NotReached, Exit::Refused, Exit::Damage]
            .into_iter()
            .find(|known| *known as u8 == fault.exit)
            .unwrap_or(Exit::Failed);
        let space = if fault.hint.is_empty() { "" } else { " " };
        Self { exit, text: format!("{}{space}{}", fault.detail, fault.hint), missing: fault.status == 404 }
    }
}
