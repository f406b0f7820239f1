//! x
/// x
pub fn sanitise(t: &str) -> String { t.to_owned() }
