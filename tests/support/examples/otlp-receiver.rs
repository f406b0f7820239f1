//! A local OTLP receiver for `make run`: prints what it was sent, once its input ends.
//!
//! `otlp-receiver ADDRESS` receives metrics and logs over HTTP and gRPC on one port, checks them as
//! strictly as the tests do, and prints the last value of each series when its standard input is
//! closed.

use std::collections::BTreeMap;
use std::io::Read;

use support::otlp::{Number, Point, Receiver};

fn main() {
    let address = std::env::args().nth(1).unwrap_or_default();
    let Ok(address) = address.parse() else {
        eprintln!("otlp-receiver: expected the address to listen on, such as 127.0.0.1:4318");
        std::process::exit(64);
    };
    let receiver = Receiver::start_at(address, None);
    let mut input = Vec::new();
    // Whatever ends the input ends the receiver.
    let _ = std::io::stdin().read_to_end(&mut input);

    let mut last: BTreeMap<String, Point> = BTreeMap::new();
    for point in receiver.all_points() {
        last.insert(format!("{} {:?}", point.name, point.attributes), point);
    }
    for point in last.values() {
        let attributes: Vec<String> = point
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let value = match &point.value {
            Number::Int(value) => value.to_string(),
            Number::Double(value) => format!("{value:.4}"),
            Number::Histogram { count, sum, .. } | Number::Exponential { count, sum } => {
                format!("{count} values, sum {sum:.6}")
            }
        };
        println!("  {} = {value} {}", point.name, point.unit);
        if !attributes.is_empty() {
            println!("      {}", attributes.join(" "));
        }
    }
    let violations = receiver.violations();
    for violation in &violations {
        println!("VIOLATION {violation}");
    }
    std::process::exit(i32::from(last.is_empty() || !violations.is_empty()));
}
