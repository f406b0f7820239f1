//! Every declared instrument is in the contract, and the other way round.

use std::collections::BTreeSet;
use std::path::Path;

use opensandbox::telemetry::instrument::Instrument;
use opensandbox::telemetry::{process, self_metrics};
use opensandbox::{egress, execd, ingress, supervisor};

use crate::tables::{
    EGRESS, EXECD, INGRESS, PROCESS, Row, STANDARD_DURATION, SUPERVISOR, TELEMETRY,
};

/// The instruments of one scope, and the table they come from.
pub struct Scope {
    pub name: &'static str,
    pub inventory: &'static [Instrument],
    pub table: &'static [Row],
    /// Rows of the table whose part of the component does not exist yet.
    pub pending: &'static [&'static str],
}

/// Everything that is declared anywhere.
pub const SCOPES: &[Scope] = &[
    Scope {
        name: egress::metrics::Metrics::SCOPE,
        inventory: egress::metrics::Metrics::INVENTORY,
        table: EGRESS,
        pending: &[],
    },
    Scope {
        name: execd::metrics::Metrics::SCOPE,
        inventory: execd::metrics::Metrics::INVENTORY,
        table: EXECD,
        pending: &[
            "execd.jupyter.sessions.active",
            "execd.jupyter.sessions.created_total",
            "execd.jupyter.sessions.deleted_total",
            "execd.filesystem.operations.count",
            "execd.filesystem.operations.duration",
        ],
    },
    Scope {
        name: ingress::metrics::Metrics::SCOPE,
        inventory: ingress::metrics::Metrics::INVENTORY,
        table: INGRESS,
        pending: &[],
    },
    Scope {
        name: supervisor::metrics::Metrics::SCOPE,
        inventory: supervisor::metrics::Metrics::INVENTORY,
        table: SUPERVISOR,
        pending: &[],
    },
    Scope {
        name: process::Metrics::SCOPE,
        inventory: process::Metrics::INVENTORY,
        table: PROCESS,
        pending: &[],
    },
    Scope {
        name: self_metrics::SelfMetrics::SCOPE,
        inventory: self_metrics::SelfMetrics::INVENTORY,
        table: TELEMETRY,
        pending: &[],
    },
];

/// Every row the daemon whose own metrics are `own` has instruments for, with their declaration.
pub fn rows_of(own: &'static str) -> impl Iterator<Item = (&'static Row, &'static Instrument)> {
    let names = [
        own,
        process::Metrics::SCOPE,
        self_metrics::SelfMetrics::SCOPE,
    ];
    let scopes = SCOPES
        .iter()
        .filter(move |scope| names.contains(&scope.name));
    scopes.flat_map(|scope| {
        let declared = |row: &Row| scope.inventory.iter().find(|found| found.name == row.name);
        scope
            .table
            .iter()
            .filter_map(move |row| Some((row, declared(row)?)))
    })
}

/// The closed sets of section 7 and of the table it refers to.
#[test]
fn the_values_of_ingress_are_closed_sets() {
    use ingress::metrics::{
        Decision, Direction, ProxyType, RenewResult, Resolution, UpstreamError,
    };
    fn values<V: Copy>(all: &[V], text: fn(V) -> &'static str) -> Vec<&'static str> {
        all.iter().map(|value| text(*value)).collect()
    }
    assert_eq!(
        values(ProxyType::ALL, ProxyType::as_str),
        ["http", "websocket"]
    );
    assert_eq!(
        values(Resolution::ALL, Resolution::as_str),
        ["success", "not_found", "not_ready", "error"]
    );
    assert_eq!(
        values(UpstreamError::ALL, UpstreamError::as_str),
        [
            "connect_refused",
            "connect_timeout",
            "dns",
            "reset",
            "header_timeout",
            "body_aborted",
            "client_closed",
        ]
    );
    assert_eq!(
        values(Decision::ALL, Decision::as_str),
        [
            "not_required",
            "header_ok",
            "signature_ok",
            "header_mismatch",
            "signature_required",
            "expired",
            "bad_signature",
            "unknown_key",
            "verifier_missing",
        ]
    );
    assert_eq!(
        values(RenewResult::ALL, RenewResult::as_str),
        [
            "published",
            "throttled",
            "dropped_full",
            "dropped_shutdown",
            "failed",
        ]
    );
    assert_eq!(values(Direction::ALL, Direction::as_str), ["in", "out"]);
}

#[test]
fn the_registry_is_the_contract() {
    for scope in SCOPES {
        let declared = scope.inventory.iter().map(|found| found.name);
        let declared: BTreeSet<_> = declared.chain(scope.pending.iter().copied()).collect();
        let written = scope.table.iter().map(|row| row.name).collect();
        assert_eq!(declared, written, "{}", scope.name);
        for row in scope.table {
            let found = scope.inventory.iter().find(|found| found.name == row.name);
            let Some(found) = found else { continue };
            assert!(!scope.pending.contains(&row.name), "{} exists", row.name);
            assert_eq!(found.kind, row.kind, "{}", row.name);
            assert_eq!(found.unit, row.unit, "{}", row.name);
            assert_eq!(found.attributes, row.attributes, "{}", row.name);
            assert_eq!(found.boundaries, row.boundaries, "{}", row.name);
            let help = found.help();
            assert!(help.ends_with('.'), "{}: {help}", row.name);
        }
    }
}

#[test]
fn names_are_unique_over_all_scopes() {
    let mut names: Vec<_> = SCOPES
        .iter()
        .flat_map(|scope| scope.inventory)
        .map(|instrument| instrument.name)
        // The same in every component, by its convention.
        .filter(|name| *name != STANDARD_DURATION)
        .collect();
    let declared = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), declared);
}

/// A scope that is declared in the source and missing from [`SCOPES`] would escape every test.
#[test]
fn no_scope_is_left_out() {
    fn scopes(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scopes(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let declarations = code.split("crate::instruments! {").skip(1);
            found.extend(declarations.map(|declaration| {
                let scope = declaration.split(" in \"").nth(1).unwrap_or_default();
                scope.split('"').next().unwrap_or_default().to_owned()
            }));
        }
    }
    let mut found = Vec::new();
    scopes(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    let mut known: Vec<_> = SCOPES.iter().map(|scope| scope.name).collect();
    found.sort();
    known.sort_unstable();
    assert_eq!(found, known);
}
