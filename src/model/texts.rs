//! A few texts by name.

use std::collections::BTreeMap;

/// A few texts by name, in one piece of memory: a map of one entry would take what eleven do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Texts(
    /// By name, each once.
    Box<[(Box<str>, Box<str>)]>,
);

impl Texts {
    /// The text of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(it, _)| (**it).cmp(name)).ok()?;
        Some(&self.0[place].1)
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names and texts, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (&**name, &**text))
    }
}

impl<N: Into<Box<str>>, T: Into<Box<str>>> FromIterator<(N, T)> for Texts {
    /// Of several of one name the last.
    fn from_iter<I: IntoIterator<Item = (N, T)>>(all: I) -> Self {
        let all = all.into_iter().map(|(name, text)| (name.into(), text.into()));
        Self(all.collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

impl<N: Into<Box<str>>, T: Into<Box<str>>, const COUNT: usize> From<[(N, T); COUNT]> for Texts {
    fn from(all: [(N, T); COUNT]) -> Self {
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_their_names() {
        let texts: Texts = [("b", "1"), ("c", "2"), ("a", "3"), ("b", "4")].into();
        assert_eq!(texts.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "4"), ("c", "2")]);
        assert_eq!(["a", "b", "d"].map(|it| texts.get(it)), [Some("3"), Some("4"), None]);
        assert!(texts.contains("c") && !Texts::default().contains("c"));
    }
}
