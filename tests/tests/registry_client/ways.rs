//! By TLS, by plain HTTP where that was settled, through proxies.

use tests::scripted::{Answer, Image, Scripted};
use tests::{Lab, Registry};

use crate::{log_in, pull, settle};

/// Gives the lab an address that is not the loopback's, and a certificate for it: ca.pem, cert.pem, key.pem; client.pem
/// and client.key for us.
fn with_certificates(lab: &Lab) {
    lab.sh("ip address add 192.0.2.1/32 dev lo
        new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \"$@\" 2>>openssl.log; }
        set -e
        new -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
        new -subj /CN=registry -keyout key.pem -out request
        echo 'subjectAltName=IP:192.0.2.1,IP:127.0.0.1,DNS:registry.test' > names
        openssl x509 -req -in request -CA ca.pem -CAkey ca.key -days 2 -extfile names -out cert.pem 2>>openssl.log
        new -subj /CN=anna -keyout client.key -out request
        echo 'extendedKeyUsage=clientAuth' > usage
        openssl x509 -req -in request -CA ca.pem -CAkey ca.key -days 2 -extfile usage -out client.pem 2>>openssl.log")
        .succeeds();
}

fn at(lab: &Lab, name: &str) -> String {
    lab.work().join(name).display().to_string()
}

/// A registry with TLS; `more` is for its settings.
fn with_tls(lab: &Lab, address: &str, more: &str) -> Registry {
    let (certificate, key) = (at(lab, "cert.pem"), at(lab, "key.pem"));
    let config =
        format!("http: {{addr: \"{address}\", tls: {{certificate: \"{certificate}\", key: \"{key}\"{more}}}}}\n");
    Registry::with_config(lab, address, &config)
}

fn plain(lab: &Lab, address: &str) -> Registry {
    Registry::with_config(lab, address, &format!("http: {{addr: \"{address}\"}}\n"))
}

fn forget(lab: &Lab, reference: &str) {
    lab.sh(&format!("mocker-images rm {reference}; mocker-images prune")).succeeds();
}

#[test]
fn an_insecure_registry_is_spoken_to_by_tls_unchecked_or_plainly() {
    let lab = Lab::new("insecure");
    with_certificates(&lab);
    let tls = with_tls(&lab, "192.0.2.1:5443", "");
    let open = plain(&lab, "192.0.2.1:5080");
    settle(&lab, "[registry.\"192.0.2.1:5443\"]\ninsecure = true\n");
    let reference = tls.reference("busybox");
    lab.tool("mocker-pull")
        .args(["--explain", &reference])
        .run()
        .succeeds()
        .says("GET https://192.0.2.1:5443/v2/library");
    forget(&lab, &reference);

    // It holds for that port alone.
    let reference = open.reference("busybox");
    pull(&lab, &reference).fails(1).says("does not speak TLS").says("[registry.\"192.0.2.1:5080\"] insecure = true");
    settle(&lab, "[registry.\"192.0.2.1:5080\"]\ninsecure = true\n");
    lab.tool("mocker-pull")
        .args(["--explain", &reference])
        .run()
        .succeeds()
        .says("GET http://192.0.2.1:5080/v2/library");
    forget(&lab, &reference);
    pull(&lab, &tls.reference("busybox")).fails(1).says("certificate").says("ca = ");

    // The loopback is spoken to plainly, unless it is settled otherwise.
    let local = with_tls(&lab, "127.0.0.1:5444", "");
    let reference = local.reference("busybox");
    pull(&lab, &reference).fails(1).says("400");
    settle(&lab, &format!("[registry.\"127.0.0.1:5444\"]\nca = \"{}\"\n", at(&lab, "ca.pem")));
    pull(&lab, &reference).succeeds();
}

#[test]
fn to_be_insecure_is_not_catching() {
    let lab = Lab::new("catching");
    let image = Image::demo(&lab, "busybox");
    lab.sh("ip address add 192.0.2.1/32 dev lo").succeeds();
    settle(&lab, "[registry.\"192.0.2.1:5080\"]\ninsecure = true\n");
    let storage = Scripted::on(lab.listener_at("192.0.2.1:5081"), &image, |_, answer| answer);
    let mode = std::sync::atomic::AtomicU32::new(0);
    let server = Scripted::on(lab.listener_at("192.0.2.1:5080"), &image, move |asked, answer| {
        // The first request asks whether it speaks TLS, and is none.
        match mode.load(std::sync::atomic::Ordering::SeqCst) {
            0 if asked.is_blob() => {
                mode.store(1, std::sync::atomic::Ordering::SeqCst);
                Answer::status(307).with("Location", format!("http://192.0.2.1:5081{}", asked.path))
            }
            0 => answer,
            _ => Answer::status(401).with("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1:5081/token\""),
        }
    });
    log_in(&lab, &server.address, "secret");
    pull(&lab, &server.reference()).fails(1).says("redirects to http://192.0.2.1:5081/").says("without TLS");
    pull(&lab, &server.reference()).fails(1).says("its token server http://192.0.2.1:5081/token is without TLS");
    assert_eq!(storage.log().len(), 0);
}

#[test]
fn certificates_come_from_the_settings_or_from_docker_s_directory() {
    let lab = Lab::new("trust");
    with_certificates(&lab);
    let registry = with_tls(&lab, "192.0.2.1:5443", &format!(", clientcas: [\"{}\"]", at(&lab, "ca.pem")));
    let reference = registry.reference("busybox");
    pull(&lab, &reference).fails(1).says("UnknownIssuer").says("ca = ");
    settle(&lab, "[registry.\"192.0.2.1:5443\"]\nca = \"../../ca.pem\"\n");
    pull(&lab, &reference).fails(1).says("a certificate of ours");
    let whole = "[registry.\"192.0.2.1:5443\"]\nca = \"../../ca.pem\"\ncertificate = \"../../client.pem\"\nkey = \"../../client.key\"\n";
    settle(&lab, whole);
    pull(&lab, &reference).succeeds();
    forget(&lab, &reference);
    settle(&lab, &whole.replace("ca.pem", "nosuch.pem"));
    pull(&lab, &reference).fails(1).says("nosuch.pem: No such file or directory");
    settle(&lab, &whole.replace("client.key", "key.pem"));
    pull(&lab, &reference).fails(1).says("cannot use the certificates of this registry").says("client.pem");
    settle(&lab, &whole.replace("ca.pem", "names"));
    pull(&lab, &reference).fails(1).says("there is no certificate in it");

    // As docker has it.
    settle(&lab, "");
    lab.sh("mkdir ../etc ../etcwork && mount -t overlay -o lowerdir=/etc,upperdir=$PWD/../etc,workdir=$PWD/../etcwork etc /etc
            d=/etc/docker/certs.d/192.0.2.1:5443; mkdir -p $d && cp ca.pem $d/ca.crt && cp client.pem $d/client.cert")
        .succeeds();
    pull(&lab, &reference)
        .fails(1)
        .says("client.cert: there is no /etc/docker/certs.d/192.0.2.1:5443/client.key beside it");
    lab.sh("cp client.key /etc/docker/certs.d/192.0.2.1:5443/").succeeds();
    pull(&lab, &reference).succeeds();
    forget(&lab, &reference);
    lab.sh("umount /etc").succeeds();
}

/// A proxy on 192.0.2.1:3128 that alone knows where registry.test is. It wants a name and a password, and notes its
/// requests in `proxied`.
const PROXY: &str = r#"
import base64, http.client, http.server, select, socket, sys
class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def allowed(self):
        print(self.command, self.path, file=open("proxied", "a"))
        if self.headers.get("Proxy-Authorization") == "Basic " + base64.b64encode(b"anna:pro:xy").decode():
            return True
        self.send_response(407); self.send_header("Content-Length", "0"); self.end_headers()
    def do_CONNECT(self):
        if not self.allowed(): return
        there = socket.create_connection(("192.0.2.1", int(self.path.rsplit(":", 1)[1])))
        self.send_response(200); self.end_headers()
        ends = [self.connection, there]
        while True:
            for end in select.select(ends, [], [])[0]:
                data = end.recv(65536)
                if not data: self.close_connection = True; return
                ends[end is self.connection].sendall(data)
    def do_GET(self):
        if not self.allowed(): return
        host, path = self.path[len("http://"):].split("/", 1)
        there = http.client.HTTPConnection("192.0.2.1", int(host.split(":")[1]))
        there.request("GET", "/" + path, headers={"Host": host, "Accept": self.headers.get("Accept", "")})
        answer = there.getresponse(); body = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type")); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("192.0.2.1", 3128), Proxy)
print("ready", flush=True)
server.serve_forever()
"#;

#[test]
fn the_environment_s_proxy_is_used_but_for_whom_it_is_not() {
    let lab = Lab::new("proxy");
    with_certificates(&lab);
    let _secure = with_tls(&lab, "192.0.2.1:5443", "");
    let _open = plain(&lab, "192.0.2.1:5080");
    let local = plain(&lab, "127.0.0.1:5000");
    let mut proxy = lab.program("python3").arg("-c").arg(PROXY).spawn();
    proxy.wait_for("ready");
    settle(
        &lab,
        "[registry.\"registry.test:5443\"]\nca = \"../../ca.pem\"\n[registry.\"registry.test:5080\"]\ninsecure = true\n",
    );
    let through = |variables: &str, reference: &str| lab.sh(&format!("{variables} mocker-pull {reference}"));
    let proxied = || {
        let text = std::fs::read_to_string(lab.work().join("proxied")).unwrap_or_default();
        std::fs::remove_file(lab.work().join("proxied")).ok();
        text
    };
    let (tls, open) = ("registry.test:5443/library/hello-world", "registry.test:5080/library/hello-world");
    let password = "http://anna:pro%3Axy@192.0.2.1:3128";

    through("", tls).fails(1).says("name is misspelt");
    through(&format!("HTTPS_PROXY={password}"), tls).succeeds();
    assert!(proxied().starts_with("CONNECT registry.test:5443\n"));
    forget(&lab, tls);
    through(&format!("http_proxy={password}"), open).succeeds();
    assert!(proxied().starts_with("GET http://registry.test:5080/v2/library/hello-world/manifests/latest\n"));
    forget(&lab, open);

    // Not for these: the loopback, and whom NO_PROXY names.
    through(&format!("ALL_PROXY={password}"), &local.reference("hello-world")).succeeds();
    for except in [".test", "registry.test:5443", "*"] {
        through(&format!("https_proxy={password} NO_PROXY={except}"), tls).fails(1).says("name is misspelt");
    }
    assert_eq!(proxied(), "");
    through(&format!("https_proxy={password} NO_PROXY=registry.test:5080,example"), tls).succeeds();
    forget(&lab, tls);

    // A proxy that refuses, one that is not there, one that makes no sense: none is passed over, no password is shown.
    let refused = through("https_proxy=http://anna:wrong@192.0.2.1:3128", tls).fails(1);
    let refused = refused.says("the proxy 192.0.2.1:3128: ").says("does not let this machine or user through");
    assert!(!refused.stderr.contains("wrong"), "{refused}");
    through("https_proxy=http://anna:wrong@192.0.2.1:1", tls)
        .fails(1)
        .says("the proxy 192.0.2.1:1: Connection refused (ECONNREFUSED)")
        .says("no proxy runs where");
    through("https_proxy=gopher://x", tls).fails(1).says("cannot use the proxy in HTTPS_PROXY");
}
