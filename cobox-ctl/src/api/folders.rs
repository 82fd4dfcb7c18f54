//! Folders: making, listing, showing, changing, waiting for copies, checking; who is connected for one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_net::http::{Fault, Input, Named, Wanted};
use cobox_net::{Path as LinkPath, PeerKind, SessionState, Transport};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Force, Shared};
use crate::control::{PolicyFor, Request};
use crate::exit::Problem;
use crate::people::{PeopleReport, PersonDevice};
use crate::report::{CheckReport, FolderReport, LeaveReport, PruneReport, StatusReport, WaitReport};

/// A wait ends after so long, unless the request says less.
const WAIT_MS_MAX: u64 = 10 * 60 * 1000;
/// A wait of a request that does not say how long.
const WAIT_MS: u64 = 60 * 1000;

/// All folders of this device.
#[derive(Serialize, Deserialize, ToSchema)]
struct Folders {
    folders: Vec<FolderReport>,
}

/// A folder to make.
#[derive(Deserialize, ToSchema)]
struct Create {
    /// What the member calls it.
    name: String,
}

/// What a folder should have; what is not given stays.
#[derive(Deserialize, ToSchema)]
struct Patch {
    /// Proved copies besides this device's.
    copies: Option<u32>,
    /// How long a proof counts, in milliseconds.
    tolerance_ms: Option<u64>,
    /// Whom it holds for: `folder`, where this device is an admin's, this `device` alone, or `nobody`: it wants
    /// nothing else than the folder any more.
    #[serde(default)]
    whom: PolicyFor,
}

/// Whether to release.
#[derive(Deserialize, ToSchema)]
struct Prune {
    /// Only says what could go.
    dry_run: bool,
}

/// What to wait for.
#[derive(Deserialize, ToSchema)]
struct WaitFor {
    /// Proved copies.
    copies: u32,
    /// At most ten minutes; one minute without it.
    timeout_ms: Option<u64>,
}

/// The peers of a folder.
#[derive(Serialize, ToSchema)]
struct Peers {
    folder: String,
    peers: Vec<Peer>,
}

/// One peer of a folder: a device or a seeder.
#[derive(Serialize, ToSchema)]
struct Peer {
    /// Its libp2p identity.
    peer_id: String,
    kind: PeerKind,
    session: SessionState,
    path: LinkPath,
    transport: Option<Transport>,
    rtt_ms: Option<u64>,
    /// Why there is no session.
    problem: Option<String>,
    /// Whether a session is open in which it told what it lacks.
    told: bool,
    /// Our entries that it lacks, as far as it told; all of them while there is no session.
    entries_behind: u64,
    /// Packs that it lacks, as far as it told.
    packs_to_send: u64,
    bytes_to_send: u64,
    /// Its entries that we lack.
    entries_to_receive: u64,
    packs_to_receive: u64,
    bytes_to_receive: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Bytes a second, over the last second.
    rate: u64,
}

/// When a folder was last in step with whom.
#[derive(Serialize, ToSchema)]
struct LastSync {
    folder: String,
    /// Seeders that have a grant.
    seeders: Vec<SeederSync>,
    /// Devices of members.
    devices: Vec<PersonDevice>,
}

/// When a seeder was last heard of, and when it last proved something.
#[derive(Serialize, ToSchema)]
struct SeederSync {
    peer_id: String,
    /// Milliseconds since 1970, by this device's clock.
    heard_at_ms: Option<u64>,
    /// Milliseconds since 1970, by this device's clock.
    proved_at_ms: Option<u64>,
    /// Whether it is connected and has told what it lacks.
    told: bool,
    /// Entries that it lacks, as far as it told; all of them while it is not connected.
    entries_behind: u64,
    /// Packs that it lacks, as far as it told.
    packs_to_send: u64,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, patch, leave))
        .routes(routes!(prune))
        .routes(routes!(wait))
        .routes(routes!(check))
        .routes(routes!(peers))
        .routes(routes!(last_sync))
}

/// The folders of this device
#[utoipa::path(get, path = "/v1/folders", responses((status = 200, body = Folders), (status = "default", body = Fault)))]
async fn list(State(api): Api) -> Answer<Folders> {
    let Json(status) = api.ask::<StatusReport>(Request::Status { folder: None }).await?;
    Ok(Json(Folders { folders: status.folders }))
}

/// Make a folder
#[utoipa::path(post, path = "/v1/folders", request_body = Create, responses((status = 201, body = FolderReport), (status = "default", body = Fault)))]
async fn create(
    State(api): Api,
    Input(wanted): Input<Create>,
) -> Result<(StatusCode, Json<FolderReport>), Fault> {
    let folder = api.ask(Request::FolderCreate { name: wanted.name }).await?;
    Ok((StatusCode::CREATED, folder))
}

/// One folder, by its id or its name
#[utoipa::path(get, path = "/v1/folders/{folder}", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = FolderReport), (status = "default", body = Fault)))]
async fn show(State(api): Api, Named(key): Named<String>) -> Answer<FolderReport> {
    let name = api.folder(&key)?;
    api.report(&name).await.map(Json)
}

/// Change how many proved copies a folder should have, and how old a proof may get
#[utoipa::path(patch, path = "/v1/folders/{folder}", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = Patch, responses((status = 200, body = FolderReport), (status = "default", body = Fault)))]
async fn patch(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<Patch>,
) -> Answer<FolderReport> {
    let folder = api.folder(&key)?;
    let (copies, tolerance_ms) = (wanted.copies, wanted.tolerance_ms);
    api.ask(Request::FolderSet { folder, copies, tolerance_ms, whom: wanted.whom }).await
}

/// Leave a folder: remove everything of it from this device; the others and the seeders keep it
#[utoipa::path(delete, path = "/v1/folders/{folder}", params(("folder" = String, Path, description = "Its id in hex, or its name"), Force),
    responses((status = 200, body = LeaveReport), (status = "default", body = Fault)))]
async fn leave(
    State(api): Api,
    Named(key): Named<String>,
    Wanted(force): Wanted<Force>,
) -> Answer<LeaveReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::FolderLeave { folder, shortfall: force.shortfall() }).await
}

/// Give back the space of what a folder does not need any more, or say what could go
#[utoipa::path(post, path = "/v1/folders/{folder}/prune", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = Prune, responses((status = 200, body = PruneReport), (status = "default", body = Fault)))]
async fn prune(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<Prune>,
) -> Answer<PruneReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::Prune { folder, dry_run: wanted.dry_run }).await
}

/// Wait until so many seeders proved that they hold all that was written before
#[utoipa::path(post, path = "/v1/folders/{folder}/wait", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = WaitFor, responses((status = 200, body = WaitReport), (status = 504, body = Fault, description = "Not reached in time"), (status = "default", body = Fault)))]
async fn wait(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<WaitFor>,
) -> Answer<WaitReport> {
    let folder = api.folder(&key)?;
    if wanted.copies == 0 {
        return Err(Fault::usage("Nothing is to be waited for: copies is 0.", ""));
    }
    let timeout_ms = wanted.timeout_ms.unwrap_or(WAIT_MS).min(WAIT_MS_MAX);
    api.ask_slowly(Request::Wait { folder, copies: wanted.copies, timeout_ms: Some(timeout_ms) }).await
}

/// Read everything that this device stores of a folder, and say what does not hold
#[utoipa::path(post, path = "/v1/folders/{folder}/check", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = CheckReport), (status = "default", body = Fault)))]
async fn check(State(api): Api, Named(key): Named<String>) -> Answer<CheckReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::Check { folder: Some(folder) }).await
}

/// The devices and seeders that a folder is synced with
#[utoipa::path(get, path = "/v1/folders/{folder}/peers", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = Peers), (status = "default", body = Fault)))]
async fn peers(State(api): Api, Named(key): Named<String>) -> Answer<Peers> {
    let folder = api.folder(&key)?;
    let peers = api.run(move |daemon| {
        let state = daemon.folder(&folder)?;
        let peers = daemon.node.status(state.no()).map_err(Problem::from)?.peers;
        let peers = peers.into_iter().map(|peer| Peer {
            told: peer.has_told(),
            peer_id: peer.peer.to_string(),
            kind: peer.kind,
            session: peer.session,
            path: peer.path,
            transport: peer.transport,
            rtt_ms: peer.rtt_ms,
            problem: peer.error,
            entries_behind: peer.entries_behind,
            packs_to_send: peer.packs_to_send,
            bytes_to_send: peer.bytes_to_send,
            entries_to_receive: peer.entries_to_receive,
            packs_to_receive: peer.packs_to_receive,
            bytes_to_receive: peer.bytes_to_receive,
            bytes_sent: peer.bytes_sent,
            bytes_received: peer.bytes_received,
            rate: peer.rate,
        });
        Ok(Peers { folder, peers: peers.collect() })
    });
    peers.await.map(Json)
}

/// When each seeder was last heard of, and when each device last wrote
#[utoipa::path(get, path = "/v1/folders/{folder}/last-sync", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = LastSync), (status = "default", body = Fault)))]
async fn last_sync(State(api): Api, Named(key): Named<String>) -> Answer<LastSync> {
    let folder = api.folder(&key)?;
    let Json(people) = api.ask::<PeopleReport>(Request::MemberList { folder: folder.clone() }).await?;
    let report = api.report(&folder).await?;
    let seeders = report.seeders.into_iter().map(|seeder| SeederSync {
        peer_id: seeder.peer_id,
        heard_at_ms: seeder.heard_at_ms,
        proved_at_ms: seeder.proved_at_ms,
        told: seeder.told,
        entries_behind: seeder.entries_behind,
        packs_to_send: seeder.packs_to_send,
    });
    let devices = people.members.into_iter().flat_map(|member| member.devices).collect();
    Ok(Json(LastSync { folder: people.folder, seeders: seeders.collect(), devices }))
}
