//! Semantic conventions of HTTP: which attribute keys describe a request, which methods are known,
//! and the standard request duration (telemetry contract, section 4; OpenTelemetry semantic
//! conventions, HTTP).
//!
//! Pure, apart from the one instrument. Never sees a path, a header or anything else a client can
//! choose freely.

use opentelemetry::KeyValue;

use super::instrument::{Handle, Instrument, Kind, Meter};
use super::series::{Key, KeyedHistogram};
use crate::http::server::UNKNOWN_ROUTE;

/// Which keys describe an HTTP request (`OTEL_SEMCONV_STABILITY_OPT_IN`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HttpKeys {
    /// Those of OSEP-0010: `http.method`, `http.status_code`.
    #[default]
    Proposal,
    /// Those of the stable conventions: `http.request.method`, `http.response.status_code`.
    Stable,
    /// Both.
    Both,
}

impl HttpKeys {
    /// Whether the proposal's keys are used.
    const fn proposal(self) -> bool {
        matches!(self, Self::Proposal | Self::Both)
    }

    /// Whether the stable keys are used, and with them `http.server.request.duration`.
    #[must_use]
    pub const fn stable(self) -> bool {
        matches!(self, Self::Stable | Self::Both)
    }

    /// Appends the method.
    pub fn method(self, method: Method, attributes: &mut Vec<KeyValue>) {
        if self.proposal() {
            attributes.push(KeyValue::new("http.method", method.as_str()));
        }
        if self.stable() {
            attributes.push(KeyValue::new("http.request.method", method.as_str()));
        }
    }

    /// Appends the status, as a number.
    pub fn status(self, status: u16, attributes: &mut Vec<KeyValue>) {
        let status = i64::from(status);
        if self.proposal() {
            attributes.push(KeyValue::new("http.status_code", status));
        }
        if self.stable() {
            attributes.push(KeyValue::new("http.response.status_code", status));
        }
    }
}

macro_rules! methods {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A request method: one of the nine known ones (RFC 9110, RFC 5789), or any other.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = concat!("`", $text, "`.")] $variant,)+
            /// Every method the conventions do not list.
            Other,
        }

        impl Method {
            /// The attribute value; `_OTHER` for an unknown method.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other => "_OTHER",
                }
            }
        }

        impl From<&http::Method> for Method {
            /// Methods are case-sensitive (RFC 9110, section 9.1).
            fn from(method: &http::Method) -> Self {
                match method.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Other,
                }
            }
        }
    };
}

methods! {
    Get = "GET",
    Head = "HEAD",
    Post = "POST",
    Put = "PUT",
    Delete = "DELETE",
    Connect = "CONNECT",
    Options = "OPTIONS",
    Trace = "TRACE",
    Patch = "PATCH",
}

/// A finished request, as the component's own request metrics tell it apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HttpRequest {
    /// How it was asked.
    pub method: Method,
    /// The matched template, with parameters as registered; else [`UNKNOWN_ROUTE`].
    pub route: &'static str,
    /// The final status.
    pub status: u16,
}

impl Key for HttpRequest {
    fn attributes(&self, keys: HttpKeys) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(5);
        keys.method(self.method, &mut attributes);
        attributes.push(KeyValue::new("http.route", self.route));
        keys.status(self.status, &mut attributes);
        attributes
    }
}

/// A finished request, as the standard duration tells it apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StandardRequest(HttpRequest);

impl Key for StandardRequest {
    fn attributes(&self, _: HttpKeys) -> Vec<KeyValue> {
        let Self(request) = *self;
        let mut attributes = Vec::with_capacity(5);
        HttpKeys::Stable.method(request.method, &mut attributes);
        HttpKeys::Stable.status(request.status, &mut attributes);
        attributes.push(KeyValue::new("url.scheme", "http"));
        if request.route != UNKNOWN_ROUTE {
            attributes.push(KeyValue::new("http.route", request.route));
        }
        if request.status >= 500 {
            attributes.push(KeyValue::new("error.type", request.status.to_string()));
        }
        attributes
    }
}

/// `http.server.request.duration`, which exists only where the stable keys were asked for.
pub struct ServerRequestDuration(Option<KeyedHistogram<StandardRequest>>);

impl ServerRequestDuration {
    /// Records a finished request of `seconds`.
    pub fn record(&self, seconds: f64, request: HttpRequest) {
        if let Self(Some(histogram)) = self {
            histogram.record_for(seconds, &StandardRequest(request));
        }
    }
}

impl Handle for ServerRequestDuration {
    const KIND: Kind = Kind::Histogram;

    fn create(meter: &Meter, declaration: &'static Instrument) -> Self {
        let wanted = meter.http_keys().stable();
        Self(wanted.then(|| KeyedHistogram::create(meter, declaration)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(attributes: &[KeyValue]) -> Vec<&str> {
        attributes.iter().map(|kv| kv.key.as_str()).collect()
    }

    #[test]
    fn the_nine_methods_keep_their_name_and_all_others_share_one() {
        for known in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ] {
            let method = known.parse().expect("a token");
            assert_eq!(Method::from(&method).as_str(), known);
        }
        for unknown in ["get", "PROPFIND", "X"] {
            let method = unknown.parse().expect("a token");
            assert_eq!(Method::from(&method).as_str(), "_OTHER");
        }
    }

    #[test]
    fn the_switch_chooses_the_keys() {
        let request = HttpRequest {
            method: Method::Get,
            route: "/code/contexts/:contextId",
            status: 404,
        };
        assert_eq!(
            keys(&request.attributes(HttpKeys::Proposal)),
            ["http.method", "http.route", "http.status_code"]
        );
        assert_eq!(
            keys(&request.attributes(HttpKeys::Stable)),
            [
                "http.request.method",
                "http.route",
                "http.response.status_code"
            ]
        );
        assert_eq!(
            keys(&request.attributes(HttpKeys::Both)),
            [
                "http.method",
                "http.request.method",
                "http.route",
                "http.status_code",
                "http.response.status_code"
            ]
        );
        let status = &request.attributes(HttpKeys::Proposal)[2];
        assert_eq!(status.value, opentelemetry::Value::I64(404));
    }

    #[test]
    fn the_standard_duration_says_what_failed_and_invents_no_route() {
        let request = |status, route| {
            StandardRequest(HttpRequest {
                method: Method::Post,
                route,
                status,
            })
            .attributes(HttpKeys::Both)
        };
        assert_eq!(
            keys(&request(200, "/command")),
            [
                "http.request.method",
                "http.response.status_code",
                "url.scheme",
                "http.route"
            ]
        );
        assert_eq!(
            request(503, UNKNOWN_ROUTE).last(),
            Some(&KeyValue::new("error.type", "503"))
        );
    }
}
