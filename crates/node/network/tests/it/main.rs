//! Two and more hosts in network namespaces.
