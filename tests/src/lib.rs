//! What the tests of whole programs share: processes in homes of their own ([`process`]) and a load
//! that knows what it was promised ([`load`]), and an HTTP client ([`http`]).

pub mod http;
pub mod load;
pub mod process;
