//! Seeders of a folder: listing, replicating to one, auditing; and the export and import of their addresses.
//!
//! An export has public keys and addresses only. Secret keys never leave a device: a new device is let in
//! with the words or with an invite, so there is nothing else to carry over.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cobox_net::http::{Fault, Input, Named, Wanted};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Force, Shared};
use crate::control::Request;
use crate::report::{AuditReport, FolderKey, KeyReport, SeederAddReport, SeederRemoveReport, SeederReport};

/// Seeders in one import: a folder has no more.
const IMPORT_MAX: usize = 64;

/// The seeders of a folder.
#[derive(Serialize, ToSchema)]
struct Seeders {
    folder: String,
    seeders: Vec<SeederReport>,
}

/// A seeder to grant.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
struct Grant {
    /// What `cobox-seeder address` prints.
    address: String,
    /// How much it may store.
    quota_bytes: u64,
    /// Until when, in milliseconds since 1970; 0 for no end.
    #[serde(default)]
    until_ms: u64,
}

/// Which seeders to challenge.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Chosen {
    /// The beginning of one peer id; all without it.
    seeder: Option<String>,
}

/// The public side of a folder: who this device is in it, and its seeders.
#[derive(Serialize, Deserialize, ToSchema)]
struct Export {
    /// This device's public key in it.
    key: FolderKey,
    /// Its seeders.
    seeders: Vec<Grant>,
}

/// Seeders to grant, as an export lists them.
#[derive(Deserialize, ToSchema)]
struct Import {
    seeders: Vec<Grant>,
}

/// What became of an import, in its order.
#[derive(Serialize, ToSchema)]
struct Imported {
    seeders: Vec<ImportedSeeder>,
}

/// What became of one seeder of an import.
#[derive(Serialize, ToSchema)]
struct ImportedSeeder {
    address: String,
    /// Its link after a few seconds; nothing where it was not granted.
    link: Option<String>,
    /// Why not.
    problem: Option<String>,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(list, replicate))
        .routes(routes!(unreplicate))
        .routes(routes!(audit))
        .routes(routes!(export))
        .routes(routes!(import))
}

/// Who holds copies of a folder, and what is known of them
#[utoipa::path(get, path = "/v1/folders/{folder}/seeders", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = Seeders), (status = "default", body = Fault)))]
async fn list(State(api): Api, Named(key): Named<String>) -> Answer<Seeders> {
    let folder = api.folder(&key)?;
    let report = api.report(&folder).await?;
    Ok(Json(Seeders { folder, seeders: report.seeders }))
}

/// Replicate a folder to a seeder: grant it room, and give it everything
#[utoipa::path(post, path = "/v1/folders/{folder}/seeders", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = Grant, responses((status = 201, body = SeederAddReport), (status = "default", body = Fault)))]
async fn replicate(
    State(api): Api,
    Named(key): Named<String>,
    Input(grant): Input<Grant>,
) -> Result<(StatusCode, Json<SeederAddReport>), Fault> {
    let folder = api.folder(&key)?;
    Ok((StatusCode::CREATED, api.ask_slowly(add(folder, grant)).await?))
}

/// Unreplicate: end a seeder's grant. It keeps what it has for at least 30 days by its own clock, and counts no more
#[utoipa::path(delete, path = "/v1/folders/{folder}/seeders/{seeder}",
    params(("folder" = String, Path, description = "Its id in hex, or its name"), ("seeder" = String, Path, description = "The beginning of its peer id"), Force),
    responses((status = 200, body = SeederRemoveReport), (status = "default", body = Fault)))]
async fn unreplicate(
    State(api): Api,
    Named((key, seeder)): Named<(String, String)>,
    Wanted(force): Wanted<Force>,
) -> Answer<SeederRemoveReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::SeederRemove { folder, seeder, shortfall: force.shortfall() }).await
}

fn add(folder: String, grant: Grant) -> Request {
    Request::SeederAdd {
        folder,
        address: grant.address,
        quota_bytes: grant.quota_bytes,
        until_ms: grant.until_ms,
    }
}

/// Challenge seeders to prove what they hold
#[utoipa::path(post, path = "/v1/folders/{folder}/audit", params(("folder" = String, Path, description = "Its id in hex, or its name"), Chosen),
    responses((status = 200, body = AuditReport), (status = "default", body = Fault)))]
async fn audit(
    State(api): Api,
    Named(key): Named<String>,
    Wanted(chosen): Wanted<Chosen>,
) -> Answer<AuditReport> {
    let folder = api.folder(&key)?;
    api.ask_slowly(Request::SeederAudit { folder, seeder: chosen.seeder }).await
}

/// The public keys of a folder and the addresses of its seeders
#[utoipa::path(get, path = "/v1/folders/{folder}/export", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    responses((status = 200, body = Export), (status = "default", body = Fault)))]
async fn export(State(api): Api, Named(key): Named<String>) -> Answer<Export> {
    let folder = api.folder(&key)?;
    let Json(keys) = api.ask::<KeyReport>(Request::KeyShow).await?;
    let key = keys.folders.into_iter().find(|key| key.name == folder);
    let key = key.ok_or_else(|| Fault::missing("The folder is gone.", ""))?;
    let report = api.report(&folder).await?;
    let seeders = report.seeders.into_iter().map(|seeder| Grant {
        address: seeder.address,
        quota_bytes: seeder.quota_bytes,
        until_ms: seeder.until_ms,
    });
    Ok(Json(Export { key, seeders: seeders.collect() }))
}

/// Grant the seeders of an export, of this folder or of another one
#[utoipa::path(post, path = "/v1/folders/{folder}/import", params(("folder" = String, Path, description = "Its id in hex, or its name")),
    request_body = Import, responses((status = 200, body = Imported), (status = "default", body = Fault)))]
async fn import(
    State(api): Api,
    Named(key): Named<String>,
    Input(wanted): Input<Import>,
) -> Answer<Imported> {
    let folder = api.folder(&key)?;
    if wanted.seeders.len() > IMPORT_MAX {
        return Err(Fault::usage(format!("A folder has at most {IMPORT_MAX} seeders."), ""));
    }
    let mut seeders = Vec::new();
    for grant in wanted.seeders {
        let address = grant.address.clone();
        let added = api.ask_slowly::<SeederAddReport>(add(folder.clone(), grant)).await;
        let (link, problem) = match added {
            Ok(Json(report)) => (Some(report.link), None),
            Err(fault) => (None, Some(fault.detail)),
        };
        seeders.push(ImportedSeeder { address, link, problem });
    }
    Ok(Json(Imported { seeders }))
}
