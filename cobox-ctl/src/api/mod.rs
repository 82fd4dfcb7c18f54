//! The daemon's HTTP API: the requests of the control socket, as JSON over HTTP.
//!
//! Every handler makes a [`Request`] or calls what the daemon itself uses; nothing is decided here. The
//! OpenAPI document comes from the same lines that make the routes. `cobox_net::http` lets people in.

mod agreements;
mod boxes;
mod conflicts;
mod folders;
mod health;
mod mounts;
mod news;
mod people;
mod seeders;
mod settings;
mod system;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use axum::extract::State;
use axum::{Json, Router};
use cobox_net::http::{Fault, Hub, Server};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::control::{Request, Shortfall, Sure, Unseen};
use crate::daemon::Daemon;
use crate::exit::{Kind, Outcome, Problem};
use crate::report::FolderReport;

/// Requests at once that may wait for minutes: the threads of the others stay free.
const SLOW_MAX: usize = 6;

/// What the handlers share. The daemon owns the API, so it is not held here.
pub(crate) struct Shared {
    daemon: Weak<Daemon>,
    hub: Hub,
    /// What was there when news was looked for last; nothing while nobody listens.
    seen: Mutex<Option<news::Seen>>,
    slow: Semaphore,
    started: Instant,
}

type Api = State<Arc<Shared>>;
/// What a handler returns.
type Answer<T> = Result<Json<T>, Fault>;

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        match problem.kind {
            Kind::Missing => Self::missing(problem.message, problem.hint),
            _ => Self::of_exit(problem.code.code(), problem.message, problem.hint),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        use crate::exit::Exit;
        let known = [Exit::Usage, Exit::NotReached, Exit::Refused, Exit::Damaged];
        let code = known.into_iter().find(|code| code.code() == fault.exit).unwrap_or(Exit::Failed);
        Self::new(code, fault.detail, fault.hint)
    }
}

/// Whether to go on although something may be lost.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Force {
    /// Also where too few proved copies are left.
    #[serde(default)]
    force: bool,
}

impl Force {
    fn shortfall(&self) -> Shortfall {
        if self.force { Shortfall::Accept } else { Shortfall::Refuse }
    }
}

/// Whether to end the log of a device although others have entries of it that are not here.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Now {
    /// Also where others have entries that are not here: they are lost.
    #[serde(default)]
    now: bool,
}

impl Now {
    fn unseen(&self) -> Unseen {
        if self.now { Unseen::Accept } else { Unseen::Refuse }
    }
}

/// Whether whoever asks is sure of what locks out this very device, or its person.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Yes {
    /// Also where it locks out this device or its person, and only others can take that back.
    #[serde(default)]
    yes: bool,
}

impl Yes {
    fn sure(&self) -> Sure {
        if self.yes { Sure::Yes } else { Sure::No }
    }
}

/// Ends what a request waits for when its client has gone.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn daemon(&self) -> Result<Arc<Daemon>, Fault> {
        self.daemon
            .upgrade()
            .filter(|daemon| !daemon.is_ending())
            .ok_or_else(|| Fault::busy("The daemon is ending."))
    }

    /// Runs something that waits, off the async threads.
    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Arc<Daemon>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let daemon = self.daemon()?;
        let done = tokio::task::spawn_blocking(move || act(&daemon)).await;
        done.map_err(|_| Fault::failed("The request failed inside the daemon; its log says more."))?
            .map_err(Fault::from)
    }

    /// Carries out a request as the control socket does.
    async fn ask<T: DeserializeOwned + Send + 'static>(&self, request: Request) -> Answer<T> {
        let gone = Arc::new(AtomicBool::new(false));
        let (seen, _gone) = (Arc::clone(&gone), Gone(gone));
        let value = self
            .run(move |daemon| {
                let mut tell = |_: &crate::report::WaitProgress| match seen.load(Ordering::SeqCst) {
                    true => Err(Problem::failed("Nobody listens any more.")),
                    false => Ok(()),
                };
                crate::daemon::answer(daemon, request, &mut tell)
            })
            .await?;
        serde_json::from_value(value)
            .map(Json)
            .map_err(|error| Fault::failed(format!("The answer cannot be written: {error}.")))
    }

    /// The same for what may take minutes.
    async fn ask_slowly<T: DeserializeOwned + Send + 'static>(&self, request: Request) -> Answer<T> {
        let _turn = self
            .slow
            .try_acquire()
            .map_err(|_| Fault::busy(format!("{SLOW_MAX} requests that take long are under way.")))?;
        self.ask(request).await
    }

    /// Everything about a folder, by its name.
    async fn report(&self, name: &str) -> Result<FolderReport, Fault> {
        let name = name.to_owned();
        self.run(move |daemon| {
            let state = daemon.folder(&name)?;
            daemon.folder_report(&state)
        })
        .await
    }

    /// A folder's name, by its id or its name.
    fn folder(&self, key: &str) -> Result<String, Fault> {
        let folders = self.daemon()?.folders();
        let by_id = folders.iter().find(|state| state.folder.id().to_hex() == key);
        let found = by_id.or_else(|| folders.iter().find(|state| state.folder.name() == key));
        found.map(|state| state.folder.name()).ok_or_else(|| {
            Fault::missing(
                "This device has no folder of that name or id.",
                "GET /v1/folders lists its folders.",
            )
        })
    }
}

fn routes() -> OpenApiRouter<Arc<Shared>> {
    let info = InfoBuilder::new()
        .title("CoBox")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The folders, mounts, people and seeders of one device."));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
        .merge(health::routes())
        .merge(folders::routes())
        .merge(mounts::routes())
        .merge(people::routes())
        .merge(seeders::routes())
        .merge(agreements::routes())
        .merge(boxes::routes())
        .merge(conflicts::routes())
        .merge(system::routes())
}

/// The OpenAPI document.
pub(crate) fn document() -> OpenApi {
    routes().into_openapi()
}

/// Answers from now on: on the Unix socket, and on TCP as the settings say.
pub(crate) fn start(daemon: &Arc<Daemon>) -> Outcome<Server> {
    let shared = Arc::new(Shared {
        daemon: Arc::downgrade(daemon),
        hub: Hub::default(),
        seen: Mutex::default(),
        slow: Semaphore::new(SLOW_MAX),
        started: Instant::now(),
    });
    news::start(daemon, &shared)?;
    let (router, document) = routes().split_for_parts();
    let describe = move || async move { Json(document) };
    let router: Router = router.route("/openapi.json", axum::routing::get(describe)).with_state(shared);
    let server = Server::start(router, daemon.paths.api_socket())?;
    // An address that is taken by now is no reason to do without the daemon.
    if let Err(problem) = settings::listen(&daemon.paths, &server) {
        tracing::error!(%problem, "the API does not answer on TCP");
    }
    Ok(server)
}
