//! Reports as people read them, and progress as it goes.

pub mod conflicts;
pub mod health;
pub mod orders;
pub mod progress;
pub mod prune;
pub mod seeders;
pub mod text;
pub mod units;
