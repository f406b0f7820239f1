//! The DNS filter.
