//! The data path of ingress, between clients and backends that follow a script and real ones.

mod abuse;
mod clients;
mod exchange;
mod limits;
mod places;
mod scene;
mod streams;
mod tunnels;
