//! The protocol byte by byte, for what no client library sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::Instance;

pub struct Raw {
    socket: TcpStream,
}

impl Raw {
    /// A connection with its session.
    pub async fn connect(instance: &Instance) -> Raw {
        let socket = TcpStream::connect(("127.0.0.1", instance.server.port)).await.unwrap();
        let mut raw = Raw { socket };
        let body = b"\0\x03\0\0user\0tidemark\0database\0tidemark\0\0";
        raw.socket.write_all(&(body.len() as u32 + 4).to_be_bytes()).await.unwrap();
        raw.socket.write_all(body).await.unwrap();
        raw.until_ready().await;
        raw
    }

    pub async fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        self.socket.write_all(&message).await.unwrap();
    }

    /// A Query message and all that comes back.
    pub async fn query(&mut self, sql: &str) -> Vec<(u8, Vec<u8>)> {
        self.send(b'Q', format!("{sql}\0").as_bytes()).await;
        self.until_ready().await
    }

    /// Messages up to ReadyForQuery.
    pub async fn until_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            let kind = self.socket.read_u8().await.unwrap();
            let length = self.socket.read_u32().await.unwrap() as usize;
            let mut body = vec![0; length - 4];
            self.socket.read_exact(&mut body).await.unwrap();
            messages.push((kind, body));
            if kind == b'Z' {
                return messages;
            }
        }
    }
}
