//! The HTTP API's lower half, for both programs: who may come in, what it may cost, and how errors look.
//!
//! A Unix socket of mode 0600, and loopback TCP where somebody asks for it, with a bearer token from a
//! file of mode 0600. Requests are bounded in number, size and time before a handler sees them. `seeder/api.rs` and `cobox-ctl`'s `api/` bring the routes. The only files
//! that name axum and hyper are here and there.

pub mod events;
pub mod exposition;
pub mod fault;
mod gate;
pub mod place;
pub mod recent;
pub mod serve;
pub mod socket;
pub mod token;

pub use events::Hub;
pub use exposition::{Exposition, Kind};
pub use fault::{Fault, Input, Named, Wanted};
pub use place::{Place, Reach};
pub use serve::Server;
pub use token::Token;
