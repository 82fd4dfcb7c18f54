//! Mounts: listing, mounting, unmounting.

use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_net::http::{Fault, Input, Wanted};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Shared};
use crate::control::{Audience, MountAccess, Request};
use crate::report::MountReport;

/// All mounts.
#[derive(Serialize, ToSchema)]
struct Mounts {
    mounts: Vec<FolderMount>,
}

/// A mount, and of which folder.
#[derive(Serialize, ToSchema)]
struct FolderMount {
    /// What the member calls the folder.
    folder: String,
    mount: MountReport,
}

/// A mount to make.
#[derive(Deserialize, ToSchema)]
struct Make {
    /// The folder's id in hex, or its name.
    folder: String,
    /// An empty directory, absolute.
    #[schema(value_type = String)]
    dir: PathBuf,
    /// Other users of the machine are let in only where this says so.
    audience: Option<Audience>,
    /// Changes are taken unless this says otherwise.
    access: Option<MountAccess>,
}

/// Which mount.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Where it is mounted, absolute.
    #[param(value_type = String)]
    dir: PathBuf,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list, make, end))
}

/// What is mounted, and what should be
#[utoipa::path(get, path = "/v1/mounts", responses((status = 200, body = Mounts), (status = "default", body = Fault)))]
async fn list(State(api): Api) -> Answer<Mounts> {
    let mounts = api.run(|daemon| {
        let folders = daemon.folders();
        let mounts = folders.iter().filter_map(|state| {
            Some(FolderMount { mount: state.mount_report()?, folder: state.folder.name() })
        });
        Ok(Mounts { mounts: mounts.collect() })
    });
    mounts.await.map(Json)
}

/// Mount a folder; it is mounted again at the daemon's next start
#[utoipa::path(post, path = "/v1/mounts", request_body = Make, responses((status = 201, body = MountReport), (status = "default", body = Fault)))]
async fn make(State(api): Api, Input(wanted): Input<Make>) -> Result<(StatusCode, Json<MountReport>), Fault> {
    let folder = api.folder(&wanted.folder)?;
    let audience = wanted.audience.unwrap_or(Audience::Owner);
    let access = wanted.access.unwrap_or(MountAccess::ReadWrite);
    let report = api.ask(Request::Mount { folder, dir: wanted.dir, audience, access }).await?;
    Ok((StatusCode::CREATED, report))
}

/// Take a mount off
#[utoipa::path(delete, path = "/v1/mounts", params(Which), responses((status = 200, body = MountReport), (status = "default", body = Fault)))]
async fn end(State(api): Api, Wanted(which): Wanted<Which>) -> Answer<MountReport> {
    api.ask(Request::Umount { dir: which.dir }).await
}
