//! Log records on the wire: one resource and one scope around a batch, encoded as the protocol asks.
//!
//! Log records were offered to the [`Account`] when they were queued; what became of each batch is
//! entered here.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Request};
use opentelemetry_http::HttpClient as _;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use prost::Message as _;

use super::account::Account;
use super::delivery::Delivery;
use super::queue::{Batch, Sink};
use crate::telemetry::bridge::{envelope, octets, octets_length, varint};
use crate::telemetry::env::Protocol;

/// Whose records they are: everything of an export that is not a record, encoded once.
#[derive(Clone)]
pub(super) struct Origin {
    /// Fields of `ResourceLogs`: before the scope with its records, and after it.
    resource: Vec<u8>,
    schema_url: Vec<u8>,
    /// The field of `ScopeLogs` before the records.
    scope: Vec<u8>,
}

impl Origin {
    /// The logger `scope` of the process that `resource` describes.
    pub(super) fn new(resource: &opentelemetry_sdk::Resource, scope: &str) -> Self {
        let described = ResourceAttributesWithSchema::from(resource);
        let field = |tag, message: Vec<u8>| {
            let mut out = Vec::new();
            octets(tag, &message, &mut out);
            out
        };
        let resource = Resource {
            attributes: described.attributes.0,
            ..Resource::default()
        };
        let scope = InstrumentationScope {
            name: scope.to_owned(),
            ..InstrumentationScope::default()
        };
        let schema_url = described.schema_url.unwrap_or_default();
        Self {
            resource: field(envelope::RESOURCE, resource.encode_to_vec()),
            schema_url: match schema_url {
                none if none.is_empty() => Vec::new(),
                url => field(envelope::SCHEMA_URL, url.into_bytes()),
            },
            scope: field(envelope::SCOPE, scope.encode_to_vec()),
        }
    }

    /// The octets before those of a batch, in an `ExportLogsServiceRequest`; after them comes the
    /// schema's URL.
    fn head(&self, batch: &Batch) -> Vec<u8> {
        let in_scope = self.scope.len() + batch.bytes.len();
        let in_resource = self.resource.len() + octets_length(in_scope) + self.schema_url.len();
        let mut out = Vec::with_capacity(self.resource.len() + self.scope.len() + 16);
        out.push(envelope::RESOURCE_LOGS);
        varint(in_resource, &mut out);
        out.extend_from_slice(&self.resource);
        out.push(envelope::SCOPE_LOGS);
        varint(in_scope, &mut out);
        out.extend_from_slice(&self.scope);
        out
    }

    /// The export of a batch in protobuf.
    fn protobuf(&self, batch: &Batch) -> Vec<u8> {
        [&self.head(batch), &batch.bytes, &self.schema_url]
            .map(Vec::as_slice)
            .concat()
    }

    /// The export of a batch as JSON shows it.
    pub(super) fn request(&self, batch: &Batch) -> io::Result<ExportLogsServiceRequest> {
        ExportLogsServiceRequest::decode(self.protobuf(batch).as_slice()).map_err(io::Error::other)
    }
}

/// The exporter of log records over OTLP.
pub(super) struct Logs {
    pub(super) origin: Origin,
    pub(super) protocol: Protocol,
    pub(super) gzip: bool,
    pub(super) delivery: Delivery,
    pub(super) account: Arc<Account>,
}

impl Logs {
    /// The batch as the delivery takes it; address and headers are the delivery's affair.
    fn encode(&self, batch: &Batch) -> io::Result<Request<Bytes>> {
        let (body, content_type) = match self.protocol {
            Protocol::HttpJson => {
                let json = serde_json::to_vec(&self.origin.request(batch)?)?;
                let body = if self.gzip { gzip(&[&json])? } else { json };
                (body, "application/json")
            }
            // gRPC carries the same message; the transport frames it.
            Protocol::HttpProtobuf | Protocol::Grpc => {
                let body = if self.gzip {
                    let head = self.origin.head(batch);
                    gzip(&[&head, &batch.bytes, &self.origin.schema_url])?
                } else {
                    self.origin.protobuf(batch)
                };
                (body, "application/x-protobuf")
            }
        };
        let mut request = Request::new(body.into());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(request)
    }
}

/// Compresses `pieces` as one.
fn gzip(pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for piece in pieces {
        encoder.write_all(piece)?;
    }
    encoder.finish()
}

impl Sink for Logs {
    fn export(&mut self, batch: &Batch) {
        if let Ok(request) = self.encode(batch) {
            // What it answers is in the outcome.
            let _ = smol::future::block_on(self.delivery.send_bytes(request));
        }
        self.delivery.settle(&self.account, batch.records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use opentelemetry::KeyValue;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};
    use std::io::Read as _;

    fn batch(records: usize) -> (Batch, Vec<LogRecord>) {
        let record = |number: usize| LogRecord {
            time_unix_nano: number as u64,
            event_name: "e".repeat(number),
            ..LogRecord::default()
        };
        let log_records: Vec<_> = (0..records).map(record).collect();
        let scope = ScopeLogs {
            log_records: log_records.clone(),
            ..ScopeLogs::default()
        };
        let batch = Batch {
            records,
            bytes: scope.encode_to_vec(),
        };
        (batch, log_records)
    }

    #[test]
    fn a_batch_in_its_envelope_is_what_the_types_of_the_protocol_make_of_it() {
        let attributes = [KeyValue::new("service.name", "test")];
        for schema_url in ["", "https://opentelemetry.io/schemas/1.0.0"] {
            let resource = opentelemetry_sdk::Resource::builder_empty()
                .with_schema_url(attributes.clone(), schema_url)
                .build();
            let origin = Origin::new(&resource, "opensandbox.test");
            for records in [0, 1, 10, 200] {
                let (batch, log_records) = batch(records);
                let request = origin.request(&batch).unwrap();
                let [resource_logs] = &request.resource_logs[..] else {
                    panic!("one resource");
                };
                assert_eq!(resource_logs.schema_url, schema_url);
                let described = resource_logs.resource.as_ref().unwrap();
                assert_eq!(described.attributes.len(), 1);
                assert_eq!(described.attributes[0].key, "service.name");
                let [scope_logs] = &resource_logs.scope_logs[..] else {
                    panic!("one scope");
                };
                let scope = scope_logs.scope.as_ref().unwrap();
                assert_eq!(scope.name, "opensandbox.test");
                assert_eq!(scope_logs.log_records, log_records);
                // Nothing is said twice, and nothing in another way.
                assert_eq!(origin.protobuf(&batch), request.encode_to_vec());
            }
        }
    }

    #[test]
    fn pieces_are_compressed_as_one() {
        let compressed = gzip(&[b"one ", b"", b"two"]).unwrap();
        let mut text = String::new();
        let mut decoder = GzDecoder::new(compressed.as_slice());
        decoder.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }
}
