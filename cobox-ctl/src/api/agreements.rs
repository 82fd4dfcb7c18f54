//! Agreements with seeders, and the codes that bring seeders in.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_net::http::{Fault, Input, Named, Wanted};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Force, Shared};
use crate::contracts::{AgreementsReport, ProposeReport, SeedCodeReport, SeedCodesReport, Wishes};
use crate::control::Request;

/// How long a seed code is good unless the request says otherwise: 72 hours, as on the command line.
const VALID_MS: u64 = 72 * 60 * 60 * 1000;

/// Terms to propose.
#[derive(Deserialize, ToSchema)]
struct Propose {
    /// With whom: the beginning of a peer id, or an address.
    seeder: String,
    /// What.
    terms: Wishes,
}

/// A seed code to open.
#[derive(Deserialize, ToSchema)]
struct OpenSeedCode {
    /// How much whoever redeems it may store.
    quota_bytes: u64,
    /// Until when, in milliseconds since 1970; 0 for no end.
    #[serde(default)]
    until_ms: u64,
    /// How long the code is good; 72 hours without it.
    valid_ms: Option<u64>,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(all))
        .routes(routes!(list, propose))
        .routes(routes!(accept))
        .routes(routes!(end))
        .routes(routes!(codes, open))
        .routes(routes!(void))
}

/// The agreements of all folders: in force and over, proposed, offered, declined
#[utoipa::path(get, path = "/v1/agreements", responses((status = 200, body = AgreementsReport), (status = "default", body = Fault)))]
async fn all(State(api): Api) -> Answer<AgreementsReport> {
    api.ask(Request::AgreementList { folder: None }).await
}

/// The agreements of a folder
#[utoipa::path(get, path = "/v1/folders/{folder}/agreements", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = AgreementsReport), (status = "default", body = Fault)))]
async fn list(State(api): Api, Named(key): Named<String>) -> Answer<AgreementsReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::AgreementList { folder: Some(folder) }).await
}

/// Propose terms to a seeder; it is granted the folder with them if it was not
#[utoipa::path(post, path = "/v1/folders/{folder}/agreements", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = Propose, responses((status = 201, body = ProposeReport), (status = "default", body = Fault)))]
async fn propose(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<Propose>,
) -> Result<(StatusCode, Json<ProposeReport>), Fault> {
    let folder = api.folder(&key)?;
    let request = Request::AgreementPropose { folder, seeder: wanted.seeder, wishes: wanted.terms };
    Ok((StatusCode::CREATED, api.ask(request).await?))
}

/// Agree to what a seeder signed of its own accord
#[utoipa::path(post, path = "/v1/folders/{folder}/agreements/{id}/accept",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("id" = String, Path, description = "The beginning of the agreement's id")),
    responses((status = 200, body = AgreementsReport), (status = "default", body = Fault)))]
async fn accept(State(api): Api, Named((key, id)): Named<(String, String)>) -> Answer<AgreementsReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::AgreementAccept { folder, id }).await
}

/// Give notice to a seeder: the agreement ends after the agreed span
#[utoipa::path(delete, path = "/v1/folders/{folder}/agreements/{seeder}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("seeder" = String, Path, description = "The beginning of the seeder's peer id"), Force),
    responses((status = 200, body = AgreementsReport), (status = "default", body = Fault)))]
async fn end(
    State(api): Api,
    Named((key, seeder)): Named<(String, String)>,
    Wanted(force): Wanted<Force>,
) -> Answer<AgreementsReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::AgreementEnd { folder, seeder, shortfall: force.shortfall() }).await
}

/// The seed codes of a folder, without the codes themselves
#[utoipa::path(get, path = "/v1/folders/{folder}/seed-codes", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = SeedCodesReport), (status = "default", body = Fault)))]
async fn codes(State(api): Api, Named(key): Named<String>) -> Answer<SeedCodesReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::SeedCodeList { folder }).await
}

/// Open a code with which one seeder can take the folder; it is in this answer and in no other
#[utoipa::path(post, path = "/v1/folders/{folder}/seed-codes", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = OpenSeedCode, responses((status = 201, body = SeedCodeReport), (status = "default", body = Fault)))]
async fn open(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<OpenSeedCode>,
) -> Result<(StatusCode, Json<SeedCodeReport>), Fault> {
    let folder = api.folder(&key)?;
    let OpenSeedCode { quota_bytes, until_ms, valid_ms } = wanted;
    let request = Request::SeedCode { folder, quota_bytes, until_ms, valid_ms: valid_ms.unwrap_or(VALID_MS) };
    Ok((StatusCode::CREATED, api.ask(request).await?))
}

/// Take a seed code back
#[utoipa::path(delete, path = "/v1/folders/{folder}/seed-codes/{code}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("code" = String, Path, description = "The beginning of its key")),
    responses((status = 200, body = SeedCodesReport), (status = "default", body = Fault)))]
async fn void(State(api): Api, Named((key, code)): Named<(String, String)>) -> Answer<SeedCodesReport> {
    let folder = api.folder(&key)?;
    api.ask(Request::SeedCodeVoid { folder, code }).await
}
