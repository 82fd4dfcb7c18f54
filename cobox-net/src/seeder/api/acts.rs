//! What the owner has done over HTTP: folders that are held, let go or limited, codes, admins, agreements, a pause.
//!
//! What the console's verbs do but for the scrub, and the order of a quota, all with the console's rights. A claim code is
//! shown at the console alone: who has the API's token does not make itself an owner elsewhere.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_store::id::{AdminKey, InviteKey};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::commands::{Answer, FolderStatus, Request, Waiting};
use super::super::orders::RefusalView;
use super::super::redeem::read_code;
use super::super::report::{AdminView, CodeView, CommandView, FolderNote};
use super::{Api, Decision, Shared, ask, decision, status_of, unexpected};
use crate::agreement::AgreementView;
use crate::driver::now_ms;
use crate::http::{Fault, Input, Named, Wanted};

/// Folders that are held.
#[derive(Serialize, ToSchema)]
struct Folders {
    folders: Vec<FolderStatus>,
}

/// A seed code to redeem.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SeedCode {
    /// As a member gave it.
    code: String,
}

/// A code that is redeemed.
#[derive(Serialize, ToSchema)]
struct Seeking {
    /// Its key in hex.
    key: String,
    /// Whether an admin of the folder has yet to grant it.
    waiting: bool,
    /// Why what was granted was not taken.
    refused: Option<String>,
}

/// How much of a folder is taken.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Quota {
    quota_bytes: u64,
    /// Until when, in milliseconds since 1970; 0 for no end.
    #[serde(default)]
    until_ms: u64,
}

/// Something was done.
#[derive(Serialize, ToSchema)]
struct Done {
    /// What, for people.
    text: String,
}

/// Who commands the seeder over the network.
#[derive(Serialize, ToSchema)]
struct Admins {
    admins: Vec<AdminView>,
    /// Codes that make one, and are open.
    codes: Vec<CodeView>,
}

/// Agreements with the people whose folders are held.
#[derive(Serialize, ToSchema)]
struct Agreements {
    agreements: Vec<AgreementView>,
}

/// What waits, what was ordered, what was refused and why, and what was agreed.
#[derive(Serialize, ToSchema)]
struct Report {
    /// Whether it takes part in nothing for now.
    paused: bool,
    waiting: Vec<Waiting>,
    agreements: Vec<AgreementView>,
    /// What admins ordered.
    commands: Vec<CommandView>,
    /// Orders that were refused.
    refused: Vec<RefusalView>,
    /// One per folder that is held.
    folders: Vec<FolderNote>,
}

/// That it is meant.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Yes {
    /// It locks somebody out, which takes `true` here.
    #[serde(default)]
    yes: bool,
}

type Told<T> = Result<Json<T>, Fault>;

pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(folders, replicate))
        .routes(routes!(folder, change, unreplicate))
        .routes(routes!(seeking))
        .routes(routes!(end_agreement))
        .routes(routes!(agreements))
        .routes(routes!(admins))
        .routes(routes!(dismiss))
        .routes(routes!(report))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Folders that are held
#[utoipa::path(get, path = "/v1/folders", responses((status = 200, body = Folders), (status = "default", body = Fault)))]
async fn folders(State(api): Api) -> Told<Folders> {
    Ok(Json(Folders { folders: status_of(&api).await?.folders }))
}

/// Replicate: hold the folder of a seed code, once an admin of it has granted that. A folder that a member offers by this
/// seeder's address waits in `/v1/pending` instead
#[utoipa::path(post, path = "/v1/folders", request_body = SeedCode, responses((status = 201, body = Seeking), (status = "default", body = Fault)))]
async fn replicate(
    State(api): Api,
    Input(wanted): Input<SeedCode>,
) -> Result<(StatusCode, Json<Seeking>), Fault> {
    read_code(&wanted.code).map_err(|failure| Fault::usage(failure.text, ""))?;
    Ok((StatusCode::CREATED, seeks(ask(&api, Request::Seed { code: wanted.code }).await?)?))
}

/// Whether a code still waits
#[utoipa::path(get, path = "/v1/codes/{key}", params(("key" = String, Path, description = "As redeeming it answered")),
    responses((status = 200, body = Seeking), (status = "default", body = Fault)))]
async fn seeking(State(api): Api, Named(key): Named<String>) -> Told<Seeking> {
    InviteKey::from_hex(&key).ok_or_else(|| Fault::missing("There is no such code.", ""))?;
    seeks(ask(&api, Request::Seeking { key }).await?)
}

fn seeks(answer: Answer) -> Told<Seeking> {
    match answer {
        Answer::Seeking { key, waiting, refused } => Ok(Json(Seeking { key, waiting, refused })),
        _ => Err(unexpected()),
    }
}

/// One folder that is held
#[utoipa::path(get, path = "/v1/folders/{folder}", params(("folder" = String, Path, description = "The beginning of its id in hex")),
    responses((status = 200, body = FolderStatus), (status = "default", body = Fault)))]
async fn folder(State(api): Api, Named(folder): Named<String>) -> Told<FolderStatus> {
    let id = api.holding.folder_named(&folder)?.to_hex();
    let found = status_of(&api).await?.folders.into_iter().find(|known| known.folder == id);
    found.map(Json).ok_or_else(|| Fault::missing("The folder is held no longer.", ""))
}

/// Change how much of a folder is taken, and until when; less than was agreed on is refused
#[utoipa::path(patch, path = "/v1/folders/{folder}", params(("folder" = String, Path, description = "The beginning of its id in hex")),
    request_body = Quota, responses((status = 200, body = Decision), (status = "default", body = Fault)))]
async fn change(State(api): Api, Named(folder): Named<String>, Input(quota): Input<Quota>) -> Told<Decision> {
    let Quota { quota_bytes, until_ms } = quota;
    if quota_bytes == 0 || (until_ms != 0 && until_ms <= now_ms()) {
        return Err(Fault::usage(
            "A quota of nothing, or an end that has come, lets the folder go.",
            "Delete it instead, or give a quota above 0 and an end that is to come.",
        ));
    }
    decision(ask(&api, Request::Quota { folder, quota_bytes, until_ms }).await?)
}

/// Unreplicate: let a folder go. Nothing new is taken, and what is here stays for at least 30 days; refused while an
/// agreement binds
#[utoipa::path(delete, path = "/v1/folders/{folder}", params(("folder" = String, Path, description = "The beginning of its id in hex")),
    responses((status = 200, body = Done), (status = "default", body = Fault)))]
async fn unreplicate(State(api): Api, Named(folder): Named<String>) -> Told<Done> {
    done(ask(&api, Request::Unseed { folder }).await?)
}

/// Give notice: the agreement on a folder ends after the span of notice
#[utoipa::path(delete, path = "/v1/folders/{folder}/agreement", params(("folder" = String, Path, description = "The beginning of its id in hex")),
    responses((status = 200, body = Agreements), (status = "default", body = Fault)))]
async fn end_agreement(State(api): Api, Named(folder): Named<String>) -> Told<Agreements> {
    agreed(ask(&api, Request::EndAgreement { folder }).await?)
}

/// Agreements: in force, over, proposed, declined
#[utoipa::path(get, path = "/v1/agreements", responses((status = 200, body = Agreements), (status = "default", body = Fault)))]
async fn agreements(State(api): Api) -> Told<Agreements> {
    agreed(ask(&api, Request::Agreements).await?)
}

fn agreed(answer: Answer) -> Told<Agreements> {
    match answer {
        Answer::Agreements { agreements } => Ok(Json(Agreements { agreements })),
        _ => Err(unexpected()),
    }
}

/// Who commands the seeder over the network, and which codes are open
#[utoipa::path(get, path = "/v1/admins", responses((status = 200, body = Admins), (status = "default", body = Fault)))]
async fn admins(State(api): Api) -> Told<Admins> {
    match ask(&api, Request::Admins).await? {
        Answer::Admins { admins, codes } => Ok(Json(Admins { admins, codes })),
        _ => Err(unexpected()),
    }
}

/// Dismiss an admin, or take a code back; never the last owner
#[utoipa::path(delete, path = "/v1/admins/{key}", params(("key" = String, Path, description = "Its key in hex, whole"), Yes),
    responses((status = 200, body = Done), (status = "default", body = Fault)))]
async fn dismiss(State(api): Api, Named(key): Named<String>, Wanted(yes): Wanted<Yes>) -> Told<Done> {
    AdminKey::from_hex(&key).ok_or_else(|| Fault::missing("There is no admin with that key.", ""))?;
    if !yes.yes {
        return Err(Fault::refused(
            "That locks out who has this key.",
            "Ask with `?yes=true` if it is meant.",
        ));
    }
    done(ask(&api, Request::Dismiss { key }).await?)
}

/// What waits, what was ordered, what was refused and why, and what was agreed
#[utoipa::path(get, path = "/v1/report", responses((status = 200, body = Report), (status = "default", body = Fault)))]
async fn report(State(api): Api) -> Told<Report> {
    match ask(&api, Request::Report).await? {
        Answer::Report { paused, waiting, agreements, commands, refused, folders } => {
            Ok(Json(Report { paused, waiting, agreements, commands, refused, folders }))
        }
        _ => Err(unexpected()),
    }
}

/// Take part in nothing until resumed
#[utoipa::path(post, path = "/v1/pause", responses((status = 200, body = Done), (status = "default", body = Fault)))]
async fn pause(State(api): Api) -> Told<Done> {
    done(ask(&api, Request::Pause).await?)
}

/// Go on after a pause
#[utoipa::path(post, path = "/v1/resume", responses((status = 200, body = Done), (status = "default", body = Fault)))]
async fn resume(State(api): Api) -> Told<Done> {
    done(ask(&api, Request::Resume).await?)
}

fn done(answer: Answer) -> Told<Done> {
    match answer {
        Answer::Said { text } => Ok(Json(Done { text })),
        _ => Err(unexpected()),
    }
}
