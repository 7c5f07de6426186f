use std::io;

use env::Clock;

use crate::{Bus, Options};

impl Bus {
    /// The bus at one or several `urls` of the same kind: `nats://`, `tls://`, `amqp://` or `amqps://`; user and
    /// password stand in them. `prefix` begins the names of all that is kept there.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an address of another kind, `Unsupported` if this program was built without the feature
    /// that it needs, and what the system says if no thread can be started.
    pub fn connect(
        urls: &[String],
        prefix: &str,
        options: Options,
        clock: &Clock,
    ) -> io::Result<Bus> {
        let kind = |url: &String| match url.split_once("://") {
            Some(("nats" | "tls", _)) => Some("nats"),
            Some(("amqp" | "amqps", _)) => Some("rabbitmq"),
            _ => None,
        };
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let Some(first) = urls.first() else {
            return Err(invalid("a bus needs an address".to_owned()));
        };
        if let Some(other) = urls.iter().find(|url| kind(url).is_none() || kind(url) != kind(first))
        {
            let kinds = "nats://, tls://, amqp:// or amqps://, all of one kind";
            return Err(invalid(format!("{:?} is no address of a bus: {kinds}", bare(other))));
        }
        match kind(first) {
            #[cfg(feature = "nats")]
            Some("nats") => {
                let nats = crate::NatsOptions::new(urls.iter().cloned(), prefix);
                Bus::nats(nats, options, clock)
            }
            #[cfg(feature = "rabbitmq")]
            Some("rabbitmq") => {
                let rabbitmq = crate::RabbitmqOptions::new(urls.iter().cloned(), prefix);
                Bus::rabbitmq(rabbitmq, options, clock)
            }
            kind => {
                let _ = (prefix, options, clock);
                let kind = kind.unwrap_or_default();
                let text = format!("this bus needs a build with the feature {kind:?}");
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
        }
    }
}

/// An address without what is secret in it.
fn bare(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}
