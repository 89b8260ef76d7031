//! The blob store on a real PostgreSQL (spec build-and-deploy sections 14.B and 15.6).

mod buckets;
mod conditions;
mod failures;
mod files;
mod migrations;
mod rig;
mod wire;
