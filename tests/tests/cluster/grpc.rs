//! gRPC, as much of it as one question and one answer need: a POST over HTTP/2 to `/SERVICE/METHOD`, whose body is the
//! message behind five bytes (0 for "not compressed", and its length). The answer has the same form; whether the call
//! succeeded stands in the trailers behind it. Source: github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md.

use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// A connection to a server on a unix socket.
pub struct Channel {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

/// A call that the server refused, and why in its words.
#[derive(Debug)]
pub struct Refusal(pub String);

impl Channel {
    pub fn connect(socket: &Path) -> Channel {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let requests = runtime.block_on(async {
            let stream =
                UnixStream::connect(socket).await.unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
            let (requests, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
            tokio::spawn(connection); // moves the frames while a call is waited for
            requests
        });
        Channel { runtime, requests }
    }

    /// Makes a call and waits for the answer, a minute at most.
    pub fn call<Answer: Message + Default>(&self, method: &str, question: &impl Message) -> Result<Answer, Refusal> {
        let exchange = exchange(self.requests.clone(), method, framed(question));
        let answer = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), exchange).await });
        let (body, trailers) = answer.unwrap_or_else(|_| panic!("{method} is not answered")).expect("HTTP/2 works");
        refusal(&trailers).map_or(Ok(()), Err)?;
        Ok(Answer::decode(unframed(body)).unwrap_or_else(|error| panic!("{method} answers nonsense: {error}")))
    }
}

/// One request. Returns the body and the headers that say how it went.
async fn exchange(requests: SendRequest<Bytes>, method: &str, body: Bytes) -> Result<(Bytes, HeaderMap), h2::Error> {
    let request = Request::post(format!("http://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (response, mut stream) = requests.ready().await?.send_request(request, false)?;
    stream.send_data(body, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?; // or the server stops after 64 KiB
        bytes.put(data);
    }
    // A refusal without a body comes as headers alone.
    Ok((bytes.freeze(), body.trailers().await?.unwrap_or(head.headers)))
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("a buffer grows");
    frame.freeze()
}

fn unframed(mut frame: Bytes) -> Bytes {
    assert!(frame.len() >= 5 && frame.get_u8() == 0, "an uncompressed message");
    let length = frame.get_u32() as usize;
    assert_eq!(frame.len(), length, "one message");
    frame
}

fn refusal(trailers: &HeaderMap) -> Option<Refusal> {
    let field = |name: &str| Some(trailers.get(name)?.to_str().ok()?.to_string());
    let status = field("grpc-status").expect("a grpc-status");
    (status != "0").then(|| Refusal(field("grpc-message").unwrap_or_default()))
}

#[test]
fn a_message_survives_its_frame() {
    #[derive(Message, PartialEq)]
    struct Note {
        #[prost(string, tag = "1")]
        text: String,
    }
    let note = Note { text: "hi".into() };
    assert_eq!(framed(&note).as_ref(), b"\0\0\0\0\x04\x0a\x02hi");
    assert_eq!(Note::decode(unframed(framed(&note))), Ok(note));
}
