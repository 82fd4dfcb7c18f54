//! Asks a seeder from its own machine: the one that runs, over its socket, or else its store.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_store::blind::Store;
use cobox_store::id::AdminKey;

use super::commands::{Answer, Request, ask_running, scrub, settled, status, waiting_grants};
use super::holding::Holding;
use super::limits::Limits;
use super::orders::Orders;
use super::owner::{Console, claim_text, console_secret};
use super::{Exit, Failure, identity, report};
use crate::wire::GrantAnswer;

/// How long a seeder that begins or ends may have the store and no socket: a large database is opened in less.
const OPENING_WAIT: Duration = Duration::from_secs(30);
const OPENING_POLL: Duration = Duration::from_millis(50);

/// Asks the seeder that runs on `data`, or its store when none does. One that just starts is waited for.
///
/// # Errors
/// When there is none, it does not answer, or what is asked cannot be done.
pub fn ask(data: &Path, request: &Request) -> Result<Answer, Failure> {
    let deadline = Instant::now() + OPENING_WAIT;
    loop {
        if let Some(answer) = ask_running(data, request)? {
            return Ok(answer);
        }
        // Before the store, which would be made where there is none.
        identity::Identity::open(data)?;
        match super::try_store(data) {
            Ok(store) => return ask_store(data, store, request),
            Err(cobox_store::Error::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(OPENING_POLL);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the store says that no seeder runs on.
fn ask_store(data: &Path, store: Arc<Store>, request: &Request) -> Result<Answer, Failure> {
    let identity = identity::Identity::open(data)?;
    match request {
        Request::Status => status(&store, identity.peer().to_string(), Vec::new()),
        Request::Scrub => scrub(&store, &|| false),
        Request::Admins => report::admins(&store),
        Request::Claim { reset } => {
            let how = if *reset { Console::Reset } else { Console::First };
            let address = identity::saved_address(data)?;
            let text = |secret: &[u8; 16]| claim_text(identity.peer(), &address.addresses, secret);
            let code = console_secret(&store, how)?.map(|secret| text(&secret)).transpose()?;
            Ok(Answer::Claim { code: code.map(|code| code.to_string()) })
        }
        Request::Seed { .. } | Request::Seeking { .. } | Request::Pause | Request::Resume => Err(Failure {
            exit: Exit::NotReached,
            text: format!(
                "The seeder does not run. Start it with: cobox-seeder run --data {}",
                data.display()
            ),
            missing: false,
        }),
        _ => ask_idle(request, store, identity, data),
    }
}

/// What needs no network.
fn ask_idle(
    request: &Request,
    store: Arc<Store>,
    identity: identity::Identity,
    data: &Path,
) -> Result<Answer, Failure> {
    let holding = Holding::new(store, identity, super::Accept::Owner, data)?;
    match request {
        Request::Accept { id } => Ok(settled(holding.settle(id, GrantAnswer::Accepted)?)),
        Request::Refuse { id } => Ok(settled(holding.settle(id, GrantAnswer::Refused)?)),
        Request::Agreements => Ok(Answer::Agreements { agreements: holding.agreements()? }),
        Request::EndAgreement { folder } => {
            let view = holding.end_agreement(holding.folder_named(folder)?)?;
            Ok(Answer::Agreements { agreements: vec![view] })
        }
        Request::Pending => Ok(Answer::Pending { grants: waiting_grants(&holding) }),
        Request::Report => report::report(&holding, Vec::new()),
        Request::Unseed { folder } => {
            let folder = holding.folder_named(folder)?;
            Orders::new(holding)?.unseed(folder)
        }
        Request::Quota { folder, quota_bytes, until_ms } => {
            let folder = holding.folder_named(folder)?;
            let limits = Limits { quota_bytes: *quota_bytes, until_ms: *until_ms };
            Orders::new(holding)?.quota(folder, limits)
        }
        Request::Dismiss { key } => {
            let key = AdminKey::from_hex(key).ok_or_else(|| Failure::failed("That is no key in hex."))?;
            Orders::new(holding)?.dismiss(key)
        }
        _ => Err(Failure::failed("The seeder does not run.")),
    }
}
