//! The state machine by table, in a random world, and driven for real.

mod databases;
mod driven;
mod real;
mod rig;
mod safety;
mod sim;
mod table;
