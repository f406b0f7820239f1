//! `/metrics`: processors and memory, once or every second (contract 6).

use std::time::Duration;

use http::{Method, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use smol::future::FutureExt;
use smol::{Timer, stream};

use super::answer::{self, Failure};
use super::stream::{milliseconds, stream_headers};
use super::{Api, Call, Endpoint};
use crate::execd::readings::{Error, Sample};
use crate::http::router::Router;
use crate::http::{Body, BoxError, Response, json};

/// How often a watcher is told.
pub const WATCH: Duration = Duration::from_secs(1);

pub(super) fn routes(router: Router<Endpoint>) -> Router<Endpoint> {
    router
        .route(Method::GET, "/metrics", |api, call| {
            Box::pin(once(api, call))
        })
        .route(Method::GET, "/metrics/watch", |api, call| {
            Box::pin(watch(api, call))
        })
}

async fn once(api: Api, _: Call) -> Result<Response, Failure> {
    let reading = api.shared.readings.now(timestamp()).await;
    let reading = reading
        .map_err(|error| Failure::failed(format!("error reading runtime metrics. {error}")))?;
    Ok(answer::document(StatusCode::OK, &reading))
}

async fn watch(api: Api, _: Call) -> Result<Response, Failure> {
    let lines = stream::unfold((api, None), |(api, earlier)| async move {
        let earlier: Option<Sample> = match earlier {
            Some(earlier) => Some(earlier),
            None => api.shared.readings.sample().ok(),
        };
        let next = async {
            Timer::after(WATCH).await;
            true
        };
        let end = async {
            api.shared.shutdown.wait().await;
            false
        };
        if !next.or(end).await {
            return None;
        }
        let readings = &api.shared.readings;
        let sample = readings.sample();
        let line = match (earlier, &sample) {
            (Some(earlier), Ok(sample)) => {
                let share = sample.share_since(&earlier);
                told(readings.reading(share, timestamp()))
            }
            _ => told::<()>(Err(Error::Cpu)),
        };
        let frame = Frame::data(line.into());
        Some((Ok::<_, BoxError>(frame), (api, sample.ok())))
    });
    let mut response = Response::new(Body::stream(StreamBody::new(lines)));
    stream_headers(&mut response);
    Ok(response)
}

/// A line for a watcher.
fn told<T: Serialize>(reading: Result<T, Error>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Failed {
        error: String,
    }
    let encoded = match reading {
        Ok(reading) => json::encode(&reading),
        Err(error) => json::encode(&Failed {
            error: error.to_string(),
        }),
    };
    // Numbers and a text are always JSON.
    let mut line = encoded.unwrap_or_default();
    line.push(b'\n');
    line
}

fn timestamp() -> u64 {
    u64::try_from(milliseconds()).unwrap_or(u64::MAX)
}
