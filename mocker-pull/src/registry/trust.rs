//! Whom to trust beside the system's authorities, and how to prove who we are: certificates of one registry.
//!
//! They come from the settings, and from where docker and podman look: `/etc/docker/certs.d/HOST[:PORT]/` and
//! `/etc/containers/certs.d/HOST[:PORT]/` with `*.crt` (authorities), `*.cert` and `*.key` (ours, in pairs). Source:
//! docker docs, "Verify repository client with certificates"; containers-certs.d(5).

use std::fs;
use std::path::{Path, PathBuf};

use mocker_common::error::{Error, failed};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Url};

use super::failure::Failure;
use super::settings::Settings;

const DIRECTORIES: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// What one host needs of TLS beyond the usual.
#[derive(Debug, Default, PartialEq)]
pub struct Trust {
    authorities: Vec<PathBuf>,
    /// certificate and key
    identity: Option<(PathBuf, PathBuf)>,
    /// nobody checks its certificate
    unchecked: bool,
}

impl Trust {
    /// What is known about the host of a URL; None if nothing is.
    pub fn of(url: &Url, settings: &Settings) -> Result<Option<Trust>, Error> {
        let mut trust = Trust::default();
        let entry = settings.of_url(url);
        if let Some(entry) = entry {
            trust.authorities.extend(entry.ca.clone());
            trust.identity = entry.certificate.clone().zip(entry.key.clone());
            trust.unchecked = entry.insecure == Some(true);
        }
        if let Some(name) = url.host_str() {
            let name = url.port().map_or(name.to_string(), |port| format!("{name}:{port}"));
            for directory in DIRECTORIES {
                trust.add(&Path::new(directory).join(&name))?;
            }
        }
        Ok((trust != Trust::default()).then_some(trust))
    }

    /// Whether it makes sense with TLS only.
    pub fn wants_tls(&self) -> bool {
        !self.authorities.is_empty() || self.identity.is_some()
    }

    /// Adds what lies in a directory of docker's. As docker has it, each certificate needs its key beside it, and the
    /// other way round: half a pair is a mistake that would look like a refused login.
    fn add(&mut self, directory: &Path) -> Result<(), Error> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("read", directory.display())(error)),
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in &files {
            let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            let other = match ending {
                "crt" => {
                    self.authorities.push(file.clone());
                    continue;
                }
                "cert" => file.with_extension("key"),
                "key" => file.with_extension("cert"),
                _ => continue,
            };
            if !files.contains(&other) {
                return Err(Error::new(format!(
                    "cannot use {}: there is no {} beside it",
                    file.display(),
                    other.display()
                ))
                .why("a certificate proves who we are only together with its key")
                .hint("the certificate of an authority is to end in .crt"));
            }
            if ending == "cert" && self.identity.is_none() {
                self.identity = Some((file.clone(), other));
            }
        }
        Ok(())
    }

    /// Makes a client that knows it.
    pub fn client(&self, mut builder: ClientBuilder) -> Result<Client, Error> {
        for path in &self.authorities {
            let pem = read(path)?;
            let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                return Err(unusable(path, "there is no certificate in it"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some((certificate, key)) = &self.identity {
            let pem = [read(certificate)?, read(key)?].join(&b'\n');
            let identity = Identity::from_pem(&pem)
                .map_err(|_| unusable(certificate, &format!("it and {} are no certificate and key", key.display())))?;
            builder = builder.identity(identity);
        }
        let files = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]).chain(&self.authorities);
        builder.tls_danger_accept_invalid_certs(self.unchecked).build().map_err(|error| {
            let files = files.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Error::new(format!("cannot use the certificates of this registry: {}", Failure::of_client(&error).words))
                .said(files)
                .likely("one is of an old kind (X.509 version 1), or a key is not its certificate's")
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let outcome = fs::read(path).map_err(failed("read", path.display()));
    outcome.map_err(|error| error.why("it proves who a registry is, or who we are; registries.toml names it"))
}

fn unusable(path: &Path, cause: &str) -> Error {
    Error::new(format!("cannot use {}: {cause}", path.display()))
        .why("by it the registry proves who it is, or we do")
        .hint(format!(
            "openssl x509 -in {} -noout -subject   (PEM is read, with its BEGIN and END lines)",
            path.display()
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_docker_s_reads_as_docker_reads_it() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::write(place.path().join(name), "").unwrap();
        ["b.crt", "a.crt", "client.cert", "client.key", "notes.txt"].into_iter().for_each(make);
        let mut trust = Trust::default();
        trust.add(place.path()).unwrap();
        let at = |name: &str| place.path().join(name);
        assert_eq!(trust.authorities, [at("a.crt"), at("b.crt")]);
        assert_eq!(trust.identity, Some((at("client.cert"), at("client.key"))));

        make("other.key");
        let error = Trust::default().add(place.path()).unwrap_err();
        assert!(error.what.contains("other.cert beside it"), "{error}");
        let mut none = Trust::default();
        none.add(&at("nowhere")).unwrap();
        assert_eq!(none, Trust::default());
    }
}
