//! What to do about the difference between what is wanted and what is.

mod draft;
mod drain;
mod formation;
mod omni;
mod place;
mod upkeep;
mod volumes;

use crate::action::Action;
use crate::time::Time;
use crate::world::World;
use draft::Draft;

/// The next steps.
///
/// Pure: equal worlds give equal plans. Only what changed since the last [`World::order`] is looked at; all of it, after
/// [`World::mark_all`], with the same result. Whoever takes the plan says so with [`World::order`], and the world then
/// holds the steps as begun until they are answered.
pub fn plan(world: &World, now: Time) -> Vec<Action> {
    let mut draft = Draft::new(world, now);
    if world.decides(now) {
        for index in &world.todo.formations {
            draft.formation(*index);
        }
        draft.stops();
        draft.orphans();
    }
    draft.hosts();
    draft.fetches();
    draft.saves();
    draft.actions
}
