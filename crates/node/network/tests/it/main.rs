//! Hosts in network namespaces of their own, on one switch, with real bridges, VXLAN devices and containers' interfaces.

mod attach;
mod leases;
mod overlay;
mod repair;
mod world;
