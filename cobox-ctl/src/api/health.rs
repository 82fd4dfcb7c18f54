//! Health: for people, for monitoring, and figures for Prometheus. The same judgement as `cobox-ctl health`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cobox_net::http::exposition::folder_label;
use cobox_net::http::{Exposition, Fault, Kind};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Api, Shared};
use crate::control::Request;
use crate::daemon::now_ms;
use crate::exit::Exit;
use crate::render::health::{HealthReport, Light, judge, of};
use crate::report::{FolderReport, SeederReport, StatusReport};

/// Whether every folder has its copies.
#[derive(Serialize, ToSchema)]
struct Healthz {
    /// The worst of all folders.
    light: Light,
    /// What `cobox-ctl health` ends with: 0 green, 3 amber, 1 red, 5 something lost.
    exit: u8,
}

pub(super) fn routes() -> OpenApiRouter<std::sync::Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(health)).routes(routes!(metrics))
}

async fn status(api: &Shared) -> Result<StatusReport, Fault> {
    let Json(status) = api.ask::<StatusReport>(Request::Status { folder: None }).await?;
    Ok(status)
}

/// Whether every folder has its copies: 200 when green or amber, 503 when red or when something is lost
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Healthz), (status = 503, body = Healthz), (status = "default", body = Fault)))]
async fn healthz(State(api): Api) -> Result<Response, Fault> {
    let report = of(&status(&api).await?);
    let light = report.folders.iter().map(|folder| folder.light).max().unwrap_or(Light::Green);
    let exit = report.exit();
    let status = match exit {
        Exit::Failed | Exit::Damaged => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    Ok((status, Json(Healthz { light, exit: exit.code() })).into_response())
}

/// Whether each folder has the copies it should have, and how old the proofs are
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = HealthReport), (status = "default", body = Fault)))]
async fn health(State(api): Api) -> Answer<HealthReport> {
    Ok(Json(of(&status(&api).await?)))
}

/// Figures for Prometheus; folders are named by the first eight digits of their ids
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Fault)))]
async fn metrics(State(api): Api) -> Result<Exposition, Fault> {
    let status = status(&api).await?;
    let daemon = api.daemon()?;
    let mut page = Exposition::default();
    let uptime_s = api.started.elapsed().as_secs();
    page.single("cobox_uptime_seconds", Kind::Gauge, "Since the daemon began.", uptime_s);
    page.single("cobox_disk_free_bytes", Kind::Gauge, "Room on the store's disk.", status.disk_free_bytes);
    page.single("cobox_connections", Kind::Gauge, "Open connections.", daemon.node.connections().len());
    page.single("cobox_folders", Kind::Gauge, "Folders of this device.", status.folders.len());
    let refusals = daemon.node.refusals().into_iter();
    let refusals = refusals.map(|(what, count)| (vec![("what", what.to_owned())], count));
    page.metric("cobox_refusals_total", Kind::Counter, "What was refused, by kind.", refusals);
    folders(&mut page, &status.folders);
    grants(&mut page, &status.folders);
    Ok(page)
}

fn folders(page: &mut Exposition, folders: &[FolderReport]) {
    let now_ms = now_ms();
    let mut each = |name, help, value: &dyn Fn(&FolderReport) -> Option<u64>| {
        let samples = folders.iter().filter_map(|folder| Some((folder_label(&folder.id), value(folder)?)));
        page.metric(name, Kind::Gauge, help, samples);
    };
    each("cobox_copies_proved", "Seeders whose proof counts.", &|folder| Some(folder.copies_proved.into()));
    each("cobox_copies_late", "Those whose proof should have been renewed.", &|folder| {
        Some(folder.copies_late.into())
    });
    each("cobox_copies_claimed", "Seeders that proved or claim everything.", &|folder| {
        Some(folder.copies_claimed.into())
    });
    each("cobox_copies_wanted", "How many proved copies there should be.", &|folder| {
        Some(folder.copies_wanted.into())
    });
    each(
        "cobox_proved_age_seconds",
        "Age of the newest proof, also where it does not count now.",
        &|folder| Some(now_ms.saturating_sub(folder.proved_at_ms?) / 1000),
    );
    each("cobox_tolerance_seconds", "How long a proof counts.", &|folder| Some(folder.tolerance_ms / 1000));
    each("cobox_health", "0 green, 1 amber, 2 red.", &|folder| Some(judge(folder).light as u64));
    each("cobox_packs_lost", "Packs that are neither here nor known to be at a seeder.", &|folder| {
        Some(folder.local.packs_lost)
    });
    each("cobox_packs_missing", "Live packs that are not wholly here.", &|folder| {
        Some(folder.local.packs_missing)
    });
    each("cobox_pack_bytes", "Bytes of the live packs.", &|folder| Some(folder.local.pack_bytes));
    each("cobox_unsent_operations", "Changes that no entry carries yet.", &|folder| {
        Some(folder.local.pending_ops)
    });
}

fn grants(page: &mut Exposition, folders: &[FolderReport]) {
    let mut each = |name, help, value: &dyn Fn(&SeederReport, &FolderReport) -> Option<u64>| {
        let samples = folders.iter().flat_map(|folder| {
            folder.seeders.iter().filter_map(move |seeder| {
                let mut labels = folder_label(&folder.id);
                labels.push(("seeder", seeder.peer_id.clone()));
                Some((labels, value(seeder, folder)?))
            })
        });
        page.metric(name, Kind::Gauge, help, samples);
    };
    each("cobox_grant_quota_bytes", "How much a seeder may store.", &|seeder, _| Some(seeder.quota_bytes));
    // Nothing is said of a seeder that is away or has not told anything yet: 0 would be a claim.
    each(
        "cobox_grant_bytes",
        "Bytes of the live packs that a connected seeder has, as far as it said.",
        &|seeder, folder| seeder.told.then(|| folder.local.pack_bytes.saturating_sub(seeder.bytes_to_send)),
    );
    each(
        "cobox_grant_behind_bytes",
        "Bytes that a connected seeder lacks, as far as it said.",
        &|seeder, _| seeder.told.then_some(seeder.bytes_to_send),
    );
}
