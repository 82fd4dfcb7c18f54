//! What the tests of whole programs share: processes in homes of their own ([`process`]), hosts with
//! networks of their own ([`hosts`]) and one folder ([`group`]), what a tree holds ([`tree`]), and a load
//! that knows what it was promised ([`load`]), a disk whose power can be cut ([`disk`]), and an HTTP client ([`http`]).

pub mod api;
pub mod disk;
pub mod group;
pub mod hosts;
pub mod http;
pub mod line;
pub mod load;
pub mod memory;
pub mod process;
pub mod tree;
