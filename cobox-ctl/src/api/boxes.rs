//! Seeders that this device commands, from anywhere: replicate and unreplicate are the orders `seed` and `unseed`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_net::http::{Fault, Input, Named, Wanted};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Shared, Yes};
use crate::contracts::{ManageReport, OwnedReport, OwnedsReport, Told};
use crate::control::Request;

/// A seeder to command.
#[derive(Deserialize, ToSchema)]
struct Claim {
    /// What `cobox-seeder claim` printed.
    code: String,
    /// What the member will call it.
    name: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list, claim)).routes(routes!(forget)).routes(routes!(order))
}

/// The seeders that this device commands
#[utoipa::path(get, path = "/v1/admin/seeders", responses((status = 200, body = OwnedsReport), (status = "default", body = Fault)))]
async fn list(State(api): Api) -> Answer<OwnedsReport> {
    api.ask(Request::SeederOwned).await
}

/// Become an admin of a seeder, with a code
#[utoipa::path(post, path = "/v1/admin/seeders", request_body = Claim, responses((status = 201, body = OwnedReport), (status = "default", body = Fault)))]
async fn claim(
    State(api): Api,
    Input(wanted): Input<Claim>,
) -> Result<(StatusCode, Json<OwnedReport>), Fault> {
    let request = Request::SeederClaim { code: wanted.code, name: wanted.name };
    Ok((StatusCode::CREATED, api.ask_slowly(request).await?))
}

/// Forget a seeder that this device commands; the seeder is not told
#[utoipa::path(delete, path = "/v1/admin/seeders/{seeder}", params(("seeder" = String, Path, description = "What the member calls it"), Yes),
    responses((status = 200, body = OwnedsReport), (status = "default", body = Fault)))]
async fn forget(
    State(api): Api,
    Named(name): Named<String>,
    Wanted(yes): Wanted<Yes>,
) -> Answer<OwnedsReport> {
    api.ask(Request::SeederForget { name, sure: yes.sure() }).await
}

/// Tell a seeder what to do, once: `seed` (replicate), `unseed` (unreplicate), `status` (list), and the rest. Its answer
/// says whether it was done, refused or cut off
#[utoipa::path(post, path = "/v1/admin/seeders/{seeder}/orders", params(("seeder" = String, Path, description = "What the member calls it, or the beginning of its peer id"), Yes),
    request_body = Told, responses((status = 200, body = ManageReport), (status = "default", body = Fault)))]
async fn order(
    State(api): Api,
    Named(name): Named<String>,
    Wanted(yes): Wanted<Yes>,
    Input(told): Input<Told>,
) -> Answer<ManageReport> {
    api.ask_slowly(Request::SeederManage { name, told, sure: yes.sure() }).await
}
