//! Lists and maps as field values, borrowed.

use serde::{Serialize, Serializer};
use slog::{Key, Record, SerdeValue, Value};

/// A list, map or structure as the value of a field. Unlike [`slog::Serde`] it borrows, so that
/// logging it allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nested<'a, T: ?Sized>(pub &'a T);

impl<T: Serialize + ?Sized> Serialize for Nested<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T: Serialize + ?Sized> Value for Nested<'_, T> {
    fn serialize(
        &self,
        _: &Record<'_>,
        key: Key,
        serializer: &mut dyn slog::Serializer,
    ) -> slog::Result {
        serializer.emit_serde(key, self)
    }
}

impl<T: Serialize + ?Sized> SerdeValue for Nested<'_, T> {
    fn as_serde(&self) -> &dyn erased_serde::Serialize {
        self
    }

    /// For drains that keep records, which ours do not. A value that cannot be kept becomes null.
    fn to_sendable(&self) -> Box<dyn SerdeValue + Send + 'static> {
        Box::new(slog::Serde(
            serde_json::to_value(self.0).unwrap_or_default(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_its_value() {
        let list = ["a", "b"];
        let nested = Nested(list.as_slice());
        assert_eq!(serde_json::to_string(&nested).unwrap(), r#"["a","b"]"#);
        let kept = nested.to_sendable();
        assert_eq!(
            serde_json::to_value(kept.as_serde()).unwrap(),
            serde_json::json!(list)
        );
    }
}
