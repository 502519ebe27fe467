//! By what a registry is spoken to: TLS, plain HTTP with the loopback, and for insecure ones what they answer to.

use std::fmt;

use mocker_common::error::Error;
use mocker_common::explain;
use mocker_common::step::Explained;
use reqwest::Url;

use super::endpoint;
use super::transport::Transport;
use super::trust::Trust;

impl Transport {
    /// The base address of a registry's API.
    pub async fn base(&self, registry: &str) -> Result<Url, Error> {
        let settings = self.session.settings()?;
        let tls = endpoint::of(registry, "https")?;
        match settings.of(registry).and_then(|entry| entry.insecure) {
            Some(true) => self.insecure(registry, tls).await,
            Some(false) => Ok(tls),
            None if !endpoint::is_loopback(&tls) => Ok(tls),
            None => match Trust::of(&tls, &settings)?.is_some_and(|trust| trust.wants_tls()) {
                true => Ok(tls),
                false => endpoint::of(registry, "http"),
            },
        }
    }

    /// Asks an insecure registry once whether it speaks TLS. Whatever else is wrong with it shows at the first request.
    async fn insecure(&self, registry: &str, tls: Url) -> Result<Url, Error> {
        let mut bases = self.session.bases.lock().await;
        if let Some(base) = bases.get(registry) {
            return Ok(base.clone());
        }
        let probe = Probe { url: endpoint::of(registry, "https")?.join("v2/").unwrap_or(tls.clone()) };
        explain::tell(&probe, "it was declared insecure: TLS is taken if it is there, plain HTTP if not");
        let client = self.client(&probe.url).map_err(|failure| failure.into_plain_error(&probe.aim()))?;
        let base = match client.get(probe.url.clone()).send().await {
            Ok(_) => tls,
            Err(_) => endpoint::of(registry, "http")?,
        };
        bases.insert(registry.into(), base.clone());
        Ok(base)
    }
}

struct Probe {
    url: Url,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GET {}", self.url)
    }
}

impl Explained for Probe {
    fn aim(&self) -> String {
        format!("ask {} whether it speaks TLS", self.url.host_str().unwrap_or_default())
    }
    fn source(&self) -> &'static str {
        "docker docs, Test an insecure registry"
    }
    fn by_hand(&self) -> String {
        format!("curl --insecure {}", self.url)
    }
}
