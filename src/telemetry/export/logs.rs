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
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use prost::Message as _;

use super::account::Account;
use super::delivery::Delivery;
use super::queue::Sink;
use crate::telemetry::env::Protocol;

/// Whose records they are: everything of an export that is not a record.
#[derive(Clone)]
pub(super) struct Origin {
    resource: Resource,
    schema_url: String,
    scope: &'static str,
}

impl Origin {
    /// The logger `scope` of the process that `resource` describes.
    pub(super) fn new(resource: &opentelemetry_sdk::Resource, scope: &'static str) -> Self {
        let described = ResourceAttributesWithSchema::from(resource);
        Self {
            resource: Resource {
                attributes: described.attributes.0,
                ..Resource::default()
            },
            schema_url: described.schema_url.unwrap_or_default(),
            scope,
        }
    }

    /// The export of a batch.
    pub(super) fn request(&self, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: vec![ScopeLogs {
                    scope: Some(InstrumentationScope {
                        name: self.scope.to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    log_records,
                    ..ScopeLogs::default()
                }],
                schema_url: self.schema_url.clone(),
            }],
        }
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
    fn encode(&self, export: &ExportLogsServiceRequest) -> io::Result<Request<Bytes>> {
        let (mut body, content_type) = match self.protocol {
            Protocol::HttpJson => (serde_json::to_vec(export)?, "application/json"),
            // gRPC carries the same message; the transport frames it.
            Protocol::HttpProtobuf | Protocol::Grpc => {
                (export.encode_to_vec(), "application/x-protobuf")
            }
        };
        if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&body)?;
            body = encoder.finish()?;
        }
        let mut request = Request::new(body.into());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(request)
    }
}

impl Sink for Logs {
    fn export(&mut self, batch: Vec<LogRecord>) {
        let records = batch.len();
        let encoded = self.encode(&self.origin.request(batch));
        if let Ok(request) = encoded {
            // What it answers is in the outcome.
            let _ = smol::future::block_on(self.delivery.send_bytes(request));
        }
        self.delivery.settle(&self.account, records);
    }
}
