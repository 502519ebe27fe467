//! Docker Hub, as a lab sees it: its names lead to a real registry of ours, with TLS and a certificate that the lab trusts.

use crate::lab::Lab;
use crate::programs::require;
use crate::registry::Registry;

/// The running stand-in; ends with the lab, or when dropped.
pub struct Hub {
    _registry: Registry,
}

impl Hub {
    /// From here on `nginx` can be pulled in the lab, by that very name.
    pub fn start(lab: &Lab) -> Hub {
        require("openssl");
        lab.sh("cd .. && mkdir hub && cd hub
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj '/CN=lab' \\
                -addext basicConstraints=critical,CA:FALSE -addext 'subjectAltName=DNS:registry-1.docker.io,DNS:index.docker.io,DNS:auth.docker.io' \\
                -keyout key.pem -out certificate.pem 2>openssl.log || { cat openssl.log >&2; exit 1; }
            { cat /etc/hosts; echo 127.0.0.1 registry-1.docker.io index.docker.io auth.docker.io; } > hosts
            mount --bind hosts /etc/hosts
            store=$(readlink -f /etc/ssl/certs/ca-certificates.crt) || exit
            cat \"$store\" certificate.pem > all.pem && mount --bind all.pem \"$store\"")
            .succeeds();
        let place = lab.work().with_file_name("hub");
        let config = format!(
            "http: {{addr: \"127.0.0.1:443\", tls: {{certificate: \"{0}/certificate.pem\", key: \"{0}/key.pem\"}}}}\n",
            place.display()
        );
        Hub { _registry: Registry::with_config(lab, "127.0.0.1:443", &config) }
    }
}
