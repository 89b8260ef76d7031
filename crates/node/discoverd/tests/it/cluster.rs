//! Clusters of three.
