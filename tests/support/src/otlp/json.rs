//! OTLP/JSON, stricter than serde: what the specification demands of a sender, not what it asks
//! a receiver to tolerate (OTLP specification, "JSON Protobuf Encoding").

use serde::de::DeserializeOwned;
use serde_json::Value;

/// 64-bit fields: decimal strings, never JSON numbers.
const WIDE: &[&str] = &[
    "timeUnixNano",
    "startTimeUnixNano",
    "observedTimeUnixNano",
    "count",
    "zeroCount",
    "asInt",
    "intValue",
];
/// Enumerations: integers, never names.
const ENUMERATIONS: &[&str] = &["aggregationTemporality", "severityNumber"];

/// Checks the text, then decodes it.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("JSON: {error}"))?;
    check(&value, "")?;
    serde_json::from_value(value).map_err(|error| format!("JSON schema: {error}"))
}

fn check(value: &Value, path: &str) -> Result<(), String> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            let path = format!("{path}.{key}");
            if key.contains('_') {
                return Err(format!("JSON: {path} is not lowerCamelCase"));
            }
            field(key, value).map_err(|wanted| format!("JSON: {path} is {value}, not {wanted}"))?;
            check(value, &path)
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check(item, &format!("{path}[{index}]"))),
        _ => Ok(()),
    }
}

fn field(key: &str, value: &Value) -> Result<(), &'static str> {
    let is_decimal = |value: &Value| {
        let text = value.as_str();
        text.is_some_and(|text| text.parse::<i128>().is_ok())
    };
    let is_hex = |value: &Value, digits: usize| {
        let text = value.as_str();
        text.is_some_and(|text| {
            (text.is_empty() || text.len() == digits)
                && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    if WIDE.contains(&key) && !is_decimal(value) {
        return Err("a decimal string");
    }
    if key == "bucketCounts"
        && !value
            .as_array()
            .is_some_and(|all| all.iter().all(is_decimal))
    {
        return Err("a list of decimal strings");
    }
    if ENUMERATIONS.contains(&key) && !value.is_u64() {
        return Err("an integer");
    }
    match key {
        "traceId" if !is_hex(value, 32) => Err("32 hexadecimal digits"),
        "spanId" if !is_hex(value, 16) => Err("16 hexadecimal digits"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;

    use super::decode;

    fn logs(record: &str) -> Result<ExportLogsServiceRequest, String> {
        let text = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}"#);
        decode(text.as_bytes())
    }

    #[test]
    fn a_well_formed_record_decodes() {
        let record = r#"{"timeUnixNano":"1","observedTimeUnixNano":"2","severityNumber":9,
            "traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174",
            "body":{"stringValue":"x"},"attributes":[{"key":"n","value":{"intValue":"7"}}]}"#;
        let request = logs(record).expect("valid");
        let record = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!(record.time_unix_nano, 1);
        assert_eq!(record.trace_id[0], 0x5b);
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for record in [
            r#"{"timeUnixNano":1}"#,
            r#"{"time_unix_nano":"1"}"#,
            r#"{"severityNumber":"SEVERITY_NUMBER_INFO"}"#,
            r#"{"traceId":"W47/95gDgQPSabYzgT/GDA=="}"#,
            r#"{"attributes":[{"key":"n","value":{"intValue":7}}]}"#,
        ] {
            assert!(logs(record).is_err(), "{record}");
        }
    }
}
