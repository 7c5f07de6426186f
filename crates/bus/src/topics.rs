use std::collections::BTreeMap;

use crate::subject::{intersection, is_pattern, matches};
use crate::{Delivery, Error};

/// What topics are declared as.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    declared: BTreeMap<String, Delivery>,
}

impl Topics {
    /// Takes a declaration in. `listeners` are the patterns that are listened to already.
    pub fn declare<'a>(
        &mut self,
        pattern: &str,
        delivery: Delivery,
        mut listeners: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        if !is_pattern(pattern) {
            return Err(Error::BadSubject(pattern.into()));
        }
        if let Some(&first) = self.declared.get(pattern) {
            let (topic, second) = (pattern.into(), delivery);
            let same = first == delivery;
            return if same { Ok(()) } else { Err(Error::Contradiction { topic, first, second }) };
        }
        if delivery.is_kept() {
            if let Some((first, _)) = self.kept(pattern).next() {
                return Err(Error::Overlap { first: first.into(), second: pattern.into() });
            }
            let shares = |listener: &&str| intersection(listener, pattern).is_some();
            if let Some(listener) = listeners.find(shares) {
                return Err(Error::Late { topic: pattern.into(), listener: listener.into() });
            }
        }
        self.declared.insert(pattern.into(), delivery);
        Ok(())
    }

    /// Takes a declaration back.
    pub fn forget(&mut self, pattern: &str) {
        self.declared.remove(pattern);
    }

    /// The strongest of the declarations that cover `subject`.
    pub fn delivery(&self, subject: &str) -> Delivery {
        let covers = self.declared.iter().filter(|(pattern, _)| matches(pattern, subject));
        covers.map(|(_, delivery)| *delivery).max().unwrap_or_default()
    }

    /// The topic that may lose nothing and covers `subject`.
    pub fn kept_of(&self, subject: &str) -> Option<(&str, Delivery)> {
        let mut topics = self.declared.iter();
        let found =
            topics.find(|(pattern, delivery)| delivery.is_kept() && matches(pattern, subject));
        found.map(|(pattern, delivery)| (pattern.as_str(), *delivery))
    }

    /// The topic `pattern` itself, if it may lose nothing.
    pub fn kept_of_topic(&self, pattern: &str) -> Option<(&str, Delivery)> {
        let (topic, delivery) = self.declared.get_key_value(pattern)?;
        delivery.is_kept().then_some((topic.as_str(), *delivery))
    }

    /// Topics that may lose nothing and share subjects with `pattern`.
    pub fn kept(&self, pattern: &str) -> impl Iterator<Item = (&str, Delivery)> {
        let all = self.declared.iter().filter(|(_, delivery)| delivery.is_kept());
        all.filter(move |(topic, _)| intersection(topic, pattern).is_some())
            .map(|(topic, delivery)| (topic.as_str(), *delivery))
    }
}
