//! What an OTLP receiver answers: the few messages that are decoded, for both signals.

use prost::Message;
use serde_json::Value;

use super::account::Accepted;

/// The longest remark of a receiver that is kept, in bytes.
const MAX_REMARK: usize = 512;

/// `ExportMetricsServiceResponse` and `ExportLogsServiceResponse`, which have the same shape
/// (opentelemetry-proto, `collector/*/v1/*_service.proto`).
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `google.rpc.Status` (googleapis, `google/rpc/status.proto`).
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo` (googleapis, `google/rpc/error_details.proto`).
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Reads an accepted export's answer in protobuf; `None`: it is none.
pub(super) fn accepted_protobuf(body: &[u8]) -> Option<Accepted> {
    let response = ExportResponse::decode(body).ok()?;
    let partial = response.partial_success.unwrap_or_default();
    Some(Accepted {
        rejected: u64::try_from(partial.rejected).unwrap_or(0),
        message: remark(&partial.error_message),
    })
}

/// Reads an accepted export's answer in JSON; `None`: it is none. 64-bit numbers may be strings
/// (protobuf's JSON mapping).
pub(super) fn accepted_json(body: &[u8]) -> Option<Accepted> {
    if body.is_empty() {
        return Some(Accepted::default());
    }
    let response: Value = serde_json::from_slice(body).ok()?;
    let partial = &response.as_object()?.get("partialSuccess");
    let field = |name: &str| partial.and_then(|partial| partial.get(name));
    let rejected = field("rejectedDataPoints")
        .or_else(|| field("rejectedLogRecords"))
        .and_then(|number| match number {
            Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        });
    let message = field("errorMessage").and_then(Value::as_str);
    Some(Accepted {
        rejected: rejected.unwrap_or(0),
        message: remark(message.unwrap_or_default()),
    })
}

/// The wait a `RetryInfo` among the details of a gRPC status asks for.
pub(super) fn retry_info(details: &[u8]) -> Option<std::time::Duration> {
    let status = Status::decode(details).ok()?;
    let info = status
        .details
        .iter()
        .find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay;
    let delay = delay.unwrap_or_default();
    let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
    Some(std::time::Duration::new(
        u64::try_from(delay.seconds).unwrap_or(0),
        nanos,
    ))
}

/// A receiver's text, cut to what is worth a log line.
pub(super) fn remark(text: &str) -> String {
    let mut end = text.len().min(MAX_REMARK);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_partial_success_is_read_in_both_encodings() {
        let expected = Accepted {
            rejected: 3,
            message: "too old".to_owned(),
        };
        let protobuf = ExportResponse {
            partial_success: Some(PartialSuccess {
                rejected: 3,
                error_message: "too old".to_owned(),
            }),
        };
        assert_eq!(
            accepted_protobuf(&protobuf.encode_to_vec()),
            Some(expected.clone())
        );
        for json in [
            r#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"too old"}}"#,
            r#"{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"too old"}}"#,
        ] {
            assert_eq!(accepted_json(json.as_bytes()), Some(expected.clone()));
        }
    }

    #[test]
    fn a_full_success_is_empty_and_nonsense_is_nothing() {
        assert_eq!(accepted_protobuf(b""), Some(Accepted::default()));
        assert_eq!(accepted_json(b""), Some(Accepted::default()));
        assert_eq!(accepted_json(b"{}"), Some(Accepted::default()));
        assert_eq!(accepted_protobuf(b"\xff\xff\xff"), None);
        assert_eq!(accepted_json(b"<html>"), None);
        assert_eq!(accepted_json(b"7"), None);
        let negative = ExportResponse {
            partial_success: Some(PartialSuccess {
                rejected: -1,
                error_message: String::new(),
            }),
        };
        assert_eq!(
            accepted_protobuf(&negative.encode_to_vec()),
            Some(Accepted::default())
        );
    }

    #[test]
    fn retry_info_is_found_among_the_details() {
        let status = |type_url: &str, delay| Status {
            details: vec![Any {
                type_url: type_url.to_owned(),
                value: RetryInfo { retry_delay: delay }.encode_to_vec(),
            }],
        };
        let delay = Delay {
            seconds: 2,
            nanos: 500_000_000,
        };
        let url = "type.googleapis.com/google.rpc.RetryInfo";
        let details = status(url, Some(delay.clone())).encode_to_vec();
        assert_eq!(retry_info(&details), Some(Duration::from_millis(2500)));
        let details = status(url, None).encode_to_vec();
        assert_eq!(retry_info(&details), Some(Duration::ZERO));
        let details = status("type.googleapis.com/other", Some(delay)).encode_to_vec();
        assert_eq!(retry_info(&details), None);
        let hostile = Delay {
            seconds: -5,
            nanos: -5,
        };
        let details = status(url, Some(hostile)).encode_to_vec();
        assert_eq!(retry_info(&details), Some(Duration::ZERO));
        assert_eq!(retry_info(b"\xff"), None);
    }

    #[test]
    fn remarks_are_cut_between_characters() {
        let long = "\u{e4}".repeat(MAX_REMARK);
        assert_eq!(remark(&long).len(), MAX_REMARK);
        let odd = format!("x{long}");
        assert_eq!(remark(&odd).len(), MAX_REMARK - 1);
    }
}
