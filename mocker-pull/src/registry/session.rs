//! What all requests of one run share: what is settled about registries, the proxies, what registries asked for and got.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mocker_common::error::Error;
use reqwest::Url;

use super::auth::Auth;
use super::credentials::Keyring;
use super::proxy::Proxies;
use super::settings::Settings;

pub struct Session {
    settings: OnceLock<Arc<Settings>>,
    proxies: OnceLock<Arc<Proxies>>,
    pub keyring: Keyring,
    /// by registry and repository
    auths: Mutex<HashMap<(String, String), Arc<Auth>>>,
    /// insecure registries, and how each is spoken to
    pub bases: tokio::sync::Mutex<HashMap<String, Url>>,
}

impl Session {
    /// `patience` is for credential helpers.
    pub fn new(patience: Duration) -> Self {
        Session {
            settings: OnceLock::new(),
            proxies: OnceLock::new(),
            keyring: Keyring::new(patience),
            auths: Mutex::default(),
            bases: tokio::sync::Mutex::default(),
        }
    }

    /// Read when first asked for: who pulls from a directory needs none.
    pub fn settings(&self) -> Result<Arc<Settings>, Error> {
        match self.settings.get() {
            Some(settings) => Ok(settings.clone()),
            None => {
                let settings = Arc::new(Settings::load()?);
                Ok(self.settings.get_or_init(|| settings).clone())
            }
        }
    }

    pub fn proxies(&self) -> Result<Arc<Proxies>, Error> {
        match self.proxies.get() {
            Some(proxies) => Ok(proxies.clone()),
            None => {
                let proxies = Arc::new(Proxies::of_environment()?);
                Ok(self.proxies.get_or_init(|| proxies).clone())
            }
        }
    }

    /// What is known about a repository's way of asking: two tags of it share their token.
    pub fn auth(&self, registry: &str, repository: &str, make: impl FnOnce() -> Auth) -> Arc<Auth> {
        let mut auths = self.auths.lock().unwrap_or_else(PoisonError::into_inner);
        auths.entry((registry.into(), repository.into())).or_insert_with(|| Arc::new(make())).clone()
    }
}
