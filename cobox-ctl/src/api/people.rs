//! People: members, devices, invites, and joining a folder.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_net::http::{Fault, Input, Named, Wanted};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Now, Shared, Yes};
use crate::control::Request;
use crate::people::{DepartureReport, InviteReport, InvitesReport, JoinReport, PeopleReport, PersonRole};

/// How long an invite is good unless the request says otherwise: 72 hours, as on the command line.
const VALID_MS: u64 = 72 * 60 * 60 * 1000;
/// How long joining waits for an admin's device unless the request says otherwise.
const JOIN_MS: u64 = 60 * 1000;
/// How long it waits at the most.
const JOIN_MS_MAX: u64 = 10 * 60 * 1000;

/// An invite to open.
#[derive(Deserialize, ToSchema)]
struct OpenInvite {
    /// What who redeems it may do.
    role: PersonRole,
    /// How long it is good; 72 hours without it.
    valid_ms: Option<u64>,
}

/// A code to redeem.
#[derive(Deserialize, ToSchema)]
struct Join {
    /// What `folder invite` printed.
    code: String,
    /// What the member will call the folder.
    name: Option<String>,
    /// At most ten minutes; one minute without it.
    timeout_ms: Option<u64>,
}

/// A role to give.
#[derive(Deserialize, ToSchema)]
struct Change {
    role: PersonRole,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(invites, invite))
        .routes(routes!(void))
        .routes(routes!(join))
        .routes(routes!(members))
        .routes(routes!(change, remove))
        .routes(routes!(remove_device))
}

/// The invites of a folder, without their codes
#[utoipa::path(get, path = "/v1/folders/{folder}/invites", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = InvitesReport), (status = "default", body = Fault)))]
async fn invites(State(api): Api, Named(key): Named<String>) -> Answer<InvitesReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::InviteList { folder }).await
}

/// Open an invite; its code is in this answer and in no other
#[utoipa::path(post, path = "/v1/folders/{folder}/invites", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = OpenInvite, responses((status = 201, body = InviteReport), (status = "default", body = Fault)))]
async fn invite(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<OpenInvite>,
) -> Result<(StatusCode, Json<InviteReport>), Fault> {
    let folder = api.folder(&key)?;
    let valid_ms = wanted.valid_ms.unwrap_or(VALID_MS);
    Ok((StatusCode::CREATED, api.ask(Request::Invite { folder, role: wanted.role, valid_ms }).await?))
}

/// Take an invite back
#[utoipa::path(delete, path = "/v1/folders/{folder}/invites/{invite}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("invite" = String, Path, description = "The beginning of its name")),
    responses((status = 200, body = InvitesReport), (status = "default", body = Fault)))]
async fn void(State(api): Api, Named((key, invite)): Named<(String, String)>) -> Answer<InvitesReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::InviteVoid { folder, invite }).await
}

/// Accept an invite: join a folder with its code
#[utoipa::path(post, path = "/v1/join", request_body = Join, responses((status = 201, body = JoinReport), (status = 504, body = Fault, description = "Nobody answered in time"), (status = "default", body = Fault)))]
async fn join(State(api): Api, Input(wanted): Input<Join>) -> Result<(StatusCode, Json<JoinReport>), Fault> {
    let timeout_ms = wanted.timeout_ms.unwrap_or(JOIN_MS).min(JOIN_MS_MAX);
    let request = Request::Join { code: wanted.code, name: wanted.name, timeout_ms };
    Ok((StatusCode::CREATED, api.ask_slowly(request).await?))
}

/// Who is in a folder
#[utoipa::path(get, path = "/v1/folders/{folder}/members", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = PeopleReport), (status = "default", body = Fault)))]
async fn members(State(api): Api, Named(key): Named<String>) -> Answer<PeopleReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::MemberList { folder }).await
}

/// Change what a person may do
#[utoipa::path(patch, path = "/v1/folders/{folder}/members/{member}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("member" = String, Path, description = "The beginning of an id, or a device's label"), Now, Yes),
    request_body = Change, responses((status = 200, body = DepartureReport), (status = "default", body = Fault)))]
async fn change(
    State(api): Api,
    Named((key, member)): Named<(String, String)>,
    Wanted(unseen): Wanted<Now>,
    Wanted(yes): Wanted<Yes>,
    Input(wanted): Input<Change>,
) -> Answer<DepartureReport> {
    let folder = api.folder(&key)?;
    let (unseen, sure) = (unseen.unseen(), yes.sure());
    api.ask_slowly(Request::MemberRole { folder, member, role: wanted.role, unseen, sure }).await
}

/// Remove a person: the keys change
#[utoipa::path(delete, path = "/v1/folders/{folder}/members/{member}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("member" = String, Path, description = "The beginning of an id, or a device's label"), Now, Yes),
    responses((status = 200, body = DepartureReport), (status = "default", body = Fault)))]
async fn remove(
    State(api): Api,
    Named((key, member)): Named<(String, String)>,
    Wanted(unseen): Wanted<Now>,
    Wanted(yes): Wanted<Yes>,
) -> Answer<DepartureReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::MemberRemove { folder, member, unseen: unseen.unseen(), sure: yes.sure() }).await
}

/// Remove a device: the keys change
#[utoipa::path(delete, path = "/v1/folders/{folder}/devices/{device}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("device" = String, Path, description = "The beginning of its id, or its label"), Now, Yes),
    responses((status = 200, body = DepartureReport), (status = "default", body = Fault)))]
async fn remove_device(
    State(api): Api,
    Named((key, device)): Named<(String, String)>,
    Wanted(unseen): Wanted<Now>,
    Wanted(yes): Wanted<Yes>,
) -> Answer<DepartureReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::DeviceRemove { folder, device, unseen: unseen.unseen(), sure: yes.sure() }).await
}
