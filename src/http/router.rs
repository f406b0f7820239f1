//! Which endpoint a request is for.
//!
//! Owns templates (`/code/contexts/:contextId`), methods, 404, 405 and the choice of redirecting
//! unclean paths or final slashes. Paths are compared as they are given, without percent-decoding.
//! Never runs a handler: it maps to whatever value the applet registered.

use ::http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use ::http::{HeaderValue, Method, StatusCode};

use super::server::Exchange;
use super::{Body, Response, error};

/// The most parameters a template may have.
pub const MAX_PARAMETERS: usize = 4;

/// The table of an applet's routes; see [`Router::route`].
#[derive(Debug)]
pub struct Router<T> {
    routes: Vec<Route<T>>,
    root: Node,
    clean: bool,
    head_as_get: bool,
    slashes: bool,
}

#[derive(Debug)]
struct Route<T> {
    template: &'static str,
    names: Vec<&'static str>,
    /// `None` answers every method.
    endpoints: Vec<(Option<Method>, T)>,
    allow: HeaderValue,
}

/// One segment of the templates. A fixed segment wins over a parameter, a parameter over the rest.
#[derive(Debug, Default)]
struct Node {
    fixed: Vec<(&'static str, Node)>,
    parameter: Option<Box<Node>>,
    rest: Option<usize>,
    route: Option<usize>,
}

/// The endpoint a request is for.
#[derive(Debug)]
pub struct Found<'router, 'path, T> {
    /// The value registered.
    pub endpoint: &'router T,
    /// The template it was registered for.
    pub template: &'static str,
    /// The parameters of the path.
    pub parameters: Parameters<'router, 'path>,
}

/// Why a request is for no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// Nothing is registered there: 404.
    NotFound,
    /// The path exists, the method does not: 405.
    MethodNotAllowed {
        /// The template of the path, for checks that come before the method.
        template: &'static str,
        /// The methods there are, in the order in which they were registered.
        allow: HeaderValue,
    },
    /// The path is to be asked for in another form.
    Moved {
        /// 301, or 307 where the method matters.
        status: StatusCode,
        /// Path and query to ask for instead.
        location: String,
    },
}

impl Miss {
    /// The answer to a request made with `method`, as Go's `net/http` gives it.
    #[must_use]
    pub fn response(self, method: &Method) -> Response {
        match self {
            Self::NotFound => error::text(StatusCode::NOT_FOUND, "404 page not found"),
            Self::MethodNotAllowed { allow, .. } => {
                let mut response =
                    error::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
                response.headers_mut().insert(ALLOW, allow);
                response
            }
            Self::Moved { status, location } => moved(status, &location, method),
        }
    }
}

fn moved(status: StatusCode, location: &str, method: &Method) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // A path that was parsed from a request is always a header value.
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, value);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
        let href = location
            .replace('&', "&amp;")
            .replace('"', "&#34;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('\'', "&#39;");
        let reason = status.canonical_reason().unwrap_or_default();
        let page = format!("<a href=\"{href}\">{reason}</a>.\n\n");
        *response.body_mut() = page.into();
    }
    response
}

/// The values of a template's parameters, as they are in the path (not percent-decoded).
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'router, 'path> {
    names: &'router [&'static str],
    values: Values<'path>,
}

type Values<'path> = [&'path str; MAX_PARAMETERS];

impl<'router, 'path> Parameters<'router, 'path> {
    /// The value of `:name`, empty when the template has none by that name.
    #[must_use]
    pub fn get(&self, name: &str) -> &'path str {
        self.names
            .iter()
            .zip(self.values)
            .find_map(|(known, value)| (*known == name).then_some(value))
            .unwrap_or_default()
    }

    /// Every parameter with its value, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'path str)> + use<'router, 'path> {
        self.names.iter().copied().zip(self.values)
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Router<T> {
    /// A router without routes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            routes: Vec::new(),
            root: Node::default(),
            clean: false,
            head_as_get: false,
            slashes: false,
        }
    }

    /// Redirects a path with `//`, `/./` or `/../` to its clean form, as Go's `ServeMux` does.
    #[must_use]
    pub fn redirect_unclean(mut self) -> Self {
        self.clean = true;
        self
    }

    /// Answers HEAD by the endpoint of GET where none is registered for it.
    #[must_use]
    pub fn head_as_get(mut self) -> Self {
        self.head_as_get = true;
        self
    }

    /// Redirects a path that is a route's but for a final slash, as gin does; a last parameter is
    /// never empty then.
    #[must_use]
    pub fn redirect_final_slash(mut self) -> Self {
        self.slashes = true;
        self
    }

    /// Registers `endpoint` for `method` on `template`, whose segments are fixed text, `:name` for
    /// any one segment (also an empty one), or a final `*name` for everything that is left.
    ///
    /// # Panics
    ///
    /// The template has more than [`MAX_PARAMETERS`] parameters or does not begin with a slash.
    #[must_use]
    pub fn route(self, method: Method, template: &'static str, endpoint: T) -> Self {
        self.add(Some(method), template, endpoint)
    }

    /// Registers `endpoint` for every method that has no endpoint of its own on `template`.
    ///
    /// # Panics
    ///
    /// As [`route`](Self::route).
    #[must_use]
    pub fn any(self, template: &'static str, endpoint: T) -> Self {
        self.add(None, template, endpoint)
    }

    fn add(mut self, method: Option<Method>, template: &'static str, endpoint: T) -> Self {
        let known = self.routes.iter().position(|r| r.template == template);
        let index = known.unwrap_or_else(|| self.plant(template));
        if let Some(route) = self.routes.get_mut(index) {
            route.endpoints.push((method, endpoint));
            let methods: Vec<_> = route
                .endpoints
                .iter()
                .filter_map(|(method, _)| method.as_ref().map(Method::as_str))
                .collect();
            if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
                route.allow = allow;
            }
        }
        self
    }

    /// Adds the nodes of a new template and its empty route.
    fn plant(&mut self, template: &'static str) -> usize {
        let path = template.strip_prefix('/');
        let path = path.unwrap_or_else(|| panic!("the route {template} does not begin with /"));
        let index = self.routes.len();
        let mut names = Vec::new();
        let mut node = &mut self.root;
        let mut ends_here = true;
        for segment in path.split('/') {
            if let Some(name) = segment.strip_prefix('*') {
                names.push(name);
                node.rest = Some(index);
                ends_here = false;
                break;
            }
            node = match segment.strip_prefix(':') {
                Some(name) => {
                    names.push(name);
                    node.parameter.get_or_insert_default()
                }
                None => {
                    let known = node.fixed.iter().position(|(text, _)| *text == segment);
                    let at = known.unwrap_or_else(|| {
                        node.fixed.push((segment, Node::default()));
                        node.fixed.len() - 1
                    });
                    &mut node.fixed[at].1
                }
            };
        }
        if ends_here {
            node.route = Some(index);
        }
        assert!(
            names.len() <= MAX_PARAMETERS,
            "the route {template} has too many parameters"
        );
        self.routes.push(Route {
            template,
            names,
            endpoints: Vec::new(),
            allow: HeaderValue::from_static(""),
        });
        index
    }

    /// Finds the endpoint of `request` and notes its template for the access record.
    ///
    /// # Errors
    ///
    /// The request is for no endpoint.
    pub fn find<'router, 'path, B>(
        &'router self,
        request: &'path ::http::Request<B>,
    ) -> Result<Found<'router, 'path, T>, Miss> {
        let (method, uri) = (request.method(), request.uri());
        if self.clean
            && method != Method::CONNECT
            && let Some(mut location) = cleaned(uri.path())
        {
            if let Some(query) = uri.query() {
                location.push('?');
                location.push_str(query);
            }
            let status = StatusCode::MOVED_PERMANENTLY;
            return Err(Miss::Moved { status, location });
        }
        let found = self.find_path(method, uri.path(), uri.query());
        let template = match &found {
            Ok(found) => Some(found.template),
            Err(Miss::MethodNotAllowed { template, .. }) => Some(*template),
            Err(_) => None,
        };
        if let (Some(template), Some(exchange)) = (template, request.extensions().get::<Exchange>())
        {
            exchange.set_route(template);
        }
        found
    }

    /// Finds the endpoint for `method` at `path`, and notes nothing: for an applet that reads the
    /// path of a request in its own way. `query` goes into the location of a redirect.
    ///
    /// # Errors
    ///
    /// There is no such endpoint.
    pub fn find_path<'router, 'path>(
        &'router self,
        method: &Method,
        path: &'path str,
        query: Option<&str>,
    ) -> Result<Found<'router, 'path, T>, Miss> {
        let found = self.find_exactly(method, path);
        if !self.slashes || !path.ends_with('/') {
            return found;
        }
        match found {
            Ok(found) if found.template.contains('*') => Ok(found),
            Ok(_) | Err(_) => {
                let shorter = path.strip_suffix('/').unwrap_or(path);
                self.find_exactly(method, shorter)
                    .map_err(|_| Miss::NotFound)?;
                let mut location = shorter.to_owned();
                if let Some(query) = query {
                    location.push('?');
                    location.push_str(query);
                }
                let status = match *method {
                    Method::GET => StatusCode::MOVED_PERMANENTLY,
                    _ => StatusCode::TEMPORARY_REDIRECT,
                };
                Err(Miss::Moved { status, location })
            }
        }
    }

    fn find_exactly<'router, 'path>(
        &'router self,
        method: &Method,
        path: &'path str,
    ) -> Result<Found<'router, 'path, T>, Miss> {
        let mut values = Values::default();
        let path = path.strip_prefix('/');
        let index = path.and_then(|path| self.root.find(path, &mut values, 0));
        let route = index.and_then(|index| self.routes.get(index));
        let route = route.ok_or(Miss::NotFound)?;
        let get = (self.head_as_get && method == Method::HEAD).then_some(&Method::GET);
        let endpoint = route
            .endpoint(Some(method))
            .or_else(|| get.and_then(|get| route.endpoint(Some(get))))
            .or_else(|| route.endpoint(None));
        match endpoint {
            Some(endpoint) => Ok(Found {
                endpoint,
                template: route.template,
                parameters: Parameters {
                    names: &route.names,
                    values,
                },
            }),
            None => Err(Miss::MethodNotAllowed {
                template: route.template,
                allow: route.allow.clone(),
            }),
        }
    }
}

impl<T> Route<T> {
    fn endpoint(&self, wanted: Option<&Method>) -> Option<&T> {
        let mut endpoints = self.endpoints.iter();
        endpoints.find_map(|(method, endpoint)| (method.as_ref() == wanted).then_some(endpoint))
    }
}

impl Node {
    /// The route below this node for `path`, which has no leading slash; `depth` parameters are
    /// already taken.
    fn find<'path>(
        &self,
        path: &'path str,
        values: &mut Values<'path>,
        depth: usize,
    ) -> Option<usize> {
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (path, None),
        };
        let below = |node: &Node, values: &mut Values<'path>, depth| match rest {
            Some(rest) => node.find(rest, values, depth),
            None => node.route,
        };
        let fixed = self.fixed.iter().find(|(text, _)| *text == segment);
        if let Some(route) = fixed.and_then(|(_, node)| below(node, values, depth)) {
            return Some(route);
        }
        if let Some(node) = &self.parameter
            && let Some(route) = below(node, values, depth + 1)
        {
            if let Some(value) = values.get_mut(depth) {
                *value = segment;
            }
            return Some(route);
        }
        if self.rest.is_some()
            && let Some(value) = values.get_mut(depth)
        {
            *value = path;
        }
        self.rest
    }
}

/// The clean form of `path` when it is another one: no empty, `.` or `..` segments, the final
/// slash kept (Go's `ServeMux`).
fn cleaned(path: &str) -> Option<String> {
    if path.starts_with('/') && !path.contains("//") && !path.contains("/.") {
        return None;
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && !segments.is_empty() {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, uri: &str) -> ::http::Request<()> {
        let builder = ::http::Request::builder().method(method).uri(uri);
        builder.body(()).unwrap()
    }

    fn found<'a>(router: &'a Router<&'static str>, path: &str) -> Result<&'a str, Miss> {
        let request = request(Method::GET, path);
        router.find(&request).map(|found| *found.endpoint)
    }

    fn execd() -> Router<&'static str> {
        Router::new()
            .route(Method::GET, "/ping", "ping")
            .route(Method::GET, "/command/status/:id", "status")
            .route(Method::GET, "/command/:id/logs", "logs")
            .route(Method::POST, "/session/:sessionId/run", "run")
            .any("/proxy/*rest", "proxy")
    }

    #[test]
    fn fixed_segments_win_over_parameters_and_empty_ones_match() {
        let router = execd();
        assert_eq!(found(&router, "/ping"), Ok("ping"));
        assert_eq!(found(&router, "/command/status/logs"), Ok("status"));
        assert_eq!(found(&router, "/command/a/logs"), Ok("logs"));
        assert_eq!(found(&router, "/command//logs"), Ok("logs"));
        // The search turns back from `status` when nothing follows there.
        assert_eq!(found(&router, "/command/status/x/y"), Err(Miss::NotFound));
        for path in [
            "/",
            "/ping/",
            "//ping",
            "/Ping",
            "/command",
            "/command/a",
            "/proxy",
        ] {
            assert_eq!(found(&router, path), Err(Miss::NotFound), "{path}");
        }
    }

    #[test]
    fn parameters_are_as_they_came() {
        let router = execd();
        let post = request(Method::POST, "/session/a%2Fb/run?x=1");
        let parameters = router.find(&post).unwrap().parameters;
        assert_eq!(parameters.get("sessionId"), "a%2Fb");
        assert_eq!(parameters.get("other"), "");
        for (path, rest) in [("/proxy/80/a//b/", "80/a//b/"), ("/proxy/", "")] {
            let request = request(Method::PATCH, path);
            assert_eq!(router.find(&request).unwrap().parameters.get("rest"), rest);
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones_in_order() {
        let router = Router::new()
            .route(Method::GET, "/policy", 1)
            .route(Method::POST, "/policy", 2)
            .route(Method::DELETE, "/policy", 3);
        let miss = router.find(&request(Method::HEAD, "/policy")).unwrap_err();
        let response = miss.response(&Method::HEAD);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, POST, DELETE");

        let router = router.head_as_get();
        let head = request(Method::HEAD, "/policy");
        assert_eq!(*router.find(&head).unwrap().endpoint, 1);
    }

    #[test]
    fn unclean_paths_are_redirected_only_on_request() {
        assert_eq!(found(&execd(), "//ping"), Err(Miss::NotFound));
        let router = execd().redirect_unclean();
        for (path, location) in [
            ("//ping", "/ping"),
            ("/a/../ping?x=%20&y", "/ping?x=%20&y"),
            ("/./ping/", "/ping/"),
            ("/..", "/"),
            ("//", "/"),
            ("/a%2Fb/./c", "/a%2Fb/c"),
        ] {
            let moved = Miss::Moved {
                status: StatusCode::MOVED_PERMANENTLY,
                location: location.to_owned(),
            };
            assert_eq!(found(&router, path), Err(moved), "{path}");
        }
        assert_eq!(found(&router, "/.well-known"), Err(Miss::NotFound));
        assert_eq!(found(&router, "/ping"), Ok("ping"));
    }

    #[test]
    fn a_final_slash_is_redirected_where_the_route_has_none() {
        let router = execd().redirect_final_slash();
        let find = |method: Method, path| {
            let found = router.find_path(&method, path, Some("a=b"));
            found.map(|found| *found.endpoint)
        };
        let moved = |status, location: &str| {
            let location = location.to_owned();
            Err(Miss::Moved { status, location })
        };
        let (permanent, temporary) = (
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::TEMPORARY_REDIRECT,
        );
        assert_eq!(find(Method::GET, "/ping/"), moved(permanent, "/ping?a=b"));
        assert_eq!(
            find(Method::POST, "/session//run/"),
            moved(temporary, "/session//run?a=b")
        );
        assert_eq!(find(Method::POST, "/ping/"), Err(Miss::NotFound));
        assert_eq!(find(Method::GET, "/ping//"), Err(Miss::NotFound));
        assert_eq!(find(Method::GET, "/command/status/"), Err(Miss::NotFound));
        assert_eq!(find(Method::GET, "/"), Err(Miss::NotFound));
        assert_eq!(find(Method::POST, "/session//run"), Ok("run"));
        assert_eq!(find(Method::PUT, "/proxy/80/"), Ok("proxy"));
    }

    #[test]
    fn a_redirect_carries_a_page_for_readers_only() {
        let moved = |method| {
            let location = "/a?b&c".to_owned();
            let status = StatusCode::MOVED_PERMANENTLY;
            Miss::Moved { status, location }.response(&method)
        };
        let response = moved(Method::GET);
        assert_eq!(response.headers()[LOCATION], "/a?b&c");
        let page = smol::block_on(response.into_body().collect(100)).unwrap();
        assert_eq!(page, "<a href=\"/a?b&amp;c\">Moved Permanently</a>.\n\n");
        let response = moved(Method::POST);
        assert!(!response.headers().contains_key(CONTENT_TYPE));
        let page = smol::block_on(response.into_body().collect(100)).unwrap();
        assert!(page.is_empty());
    }
}
