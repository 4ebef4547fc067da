//! nginx, asked beside the product: what it answers is what users are used to.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::process::{Process, SOON, command, component, eventually, free_port};

/// A running nginx; it ends when dropped.
pub struct Nginx {
    pub addr: SocketAddr,
    _process: Process,
    /// Its configuration, and what it keeps of bodies.
    _files: TempDir,
}

impl Nginx {
    /// One server for each host, as ingress-nginx would set it up; locations name a Service as `web` or
    /// `api`.
    pub async fn with_servers(
        servers: &[(&str, String)],
        web: SocketAddr,
        api: SocketAddr,
    ) -> Self {
        Self::start(|addr| {
            let mut http = format!(
                "port_in_redirect off; proxy_http_version 1.1;\n\
                 proxy_set_header Host $http_host; proxy_set_header Connection '';\n\
                 upstream web {{ server {web}; }}\nupstream api {{ server {api}; }}\n"
            );
            for (host, locations) in servers {
                writeln!(http, "server {{ listen {addr}; server_name {host}; {locations} }}")
                    .unwrap();
            }
            http
        })
        .await
    }

    /// With what `http` says inside the block of that name, for the address it is to listen at.
    ///
    /// It is one process: a worker would outlive its master, which is killed in the end.
    ///
    /// # Panics
    ///
    /// If it ends instead of listening.
    pub async fn start(http: impl FnOnce(SocketAddr) -> String) -> Self {
        let files = tempfile::tempdir().unwrap();
        let dir = files.path().display();
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log stderr;\n\
             events {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             {}\n}}\n",
            http(addr)
        );
        let file = files.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = command(component("LOCKGATE_NGINX"));
        command.arg("-c").arg(&file);
        let process = Process::spawn(command);
        eventually("nginx", SOON, async || {
            assert_eq!(process.exit_code(), None, "nginx has ended:\n{}", process.log());
            TcpStream::connect(addr).await.map(drop)
        })
        .await;
        Self { addr, _process: process, _files: files }
    }
}
