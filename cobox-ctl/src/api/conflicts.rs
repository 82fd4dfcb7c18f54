//! Conflicts: what devices did at the same time, and settling it.

use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use axum::extract::State;
use cobox_net::http::{Fault, Input, Named};
use cobox_store::id::unhex;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Shared};
use crate::conflicts::{ConflictsReport, KeepHow, KeepReport};
use crate::control::Request;

/// A conflict to settle.
#[derive(Deserialize, ToSchema)]
struct Settle {
    /// The path in the mount of the one that is meant, absolute.
    #[serde(default)]
    #[schema(value_type = String)]
    path: PathBuf,
    /// The same in hex, instead, where it is no UTF-8.
    path_hex: Option<String>,
    /// What is to stay.
    keep: KeepHow,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(list)).routes(routes!(settle))
}

/// The open conflicts of all folders
#[utoipa::path(get, path = "/v1/conflicts", responses((status = 200, body = ConflictsReport), (status = "default", body = Fault)))]
async fn all(State(api): Api) -> Answer<ConflictsReport> {
    api.ask_slowly(Request::Conflicts { folder: None }).await
}

/// The open conflicts of a folder
#[utoipa::path(get, path = "/v1/folders/{folder}/conflicts", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = ConflictsReport), (status = "default", body = Fault)))]
async fn list(State(api): Api, Named(key): Named<String>) -> Answer<ConflictsReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::Conflicts { folder: Some(folder) }).await
}

/// Settle a conflict in a mounted folder
#[utoipa::path(post, path = "/v1/conflicts/settle", request_body = Settle, responses((status = 200, body = KeepReport), (status = "default", body = Fault)))]
async fn settle(State(api): Api, Input(wanted): Input<Settle>) -> Answer<KeepReport> {
    let path = match &wanted.path_hex {
        Some(text) => unhex(text).ok_or_else(|| Fault::usage("`path_hex` is not hex.", ""))?,
        None => wanted.path.into_os_string().into_vec(),
    };
    api.ask_slowly(Request::ConflictKeep { path, how: wanted.keep }).await
}
