//! Which nodes make up the cluster: how one begins, how nodes find and join it, and who votes.

mod bootstrap;
mod join;
mod membership;
mod steward;

pub(crate) use join::{Roster, answer_announce, join};
pub(crate) use steward::steward;
