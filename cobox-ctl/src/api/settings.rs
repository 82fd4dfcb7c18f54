//! Where the API answers on TCP: `api.json` in the device's home.

use std::io::ErrorKind;

use cobox_net::http::{Place, Reach, Server, Token};
use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::exit::{Outcome, Problem};
use crate::paths::Paths;
use crate::report::ApiReport;

/// The file.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    listen: Option<String>,
    reach: Reach,
}

fn read(paths: &Paths) -> Outcome<Settings> {
    let path = paths.api_settings();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Settings::default()),
        Err(error) => return Err(Problem::failed(format!("{} cannot be read: {error}.", path.display()))),
    };
    serde_json::from_str(&text).map_err(|error| {
        Problem::failed_with(
            format!("{} is not understood: {error}.", path.display()),
            "Correct it, or write it anew with `cobox-ctl api listen ADDR` or `cobox-ctl api off`.",
        )
    })
}

/// Answers where the settings say.
pub(super) fn listen(paths: &Paths, server: &Server) -> Outcome<()> {
    let settings = read(paths)?;
    let Some(text) = &settings.listen else {
        server.stop_tcp();
        return Ok(());
    };
    let place = Place::parse(text, settings.reach)?;
    let address = server.listen_tcp(&place, Token::open_or_create(&paths.api_token())?)?;
    tracing::info!(%address, "the API answers on TCP");
    Ok(())
}

impl Daemon {
    /// Where the API answers.
    pub fn api_report(&self) -> ApiReport {
        let address = self.api().and_then(|api| api.tcp_address());
        ApiReport {
            socket: self.paths.api_socket(),
            listen: address.map(|address| address.to_string()),
            token_file: address.map(|_| self.paths.api_token()),
        }
    }

    /// Changes where the API answers on TCP, now and at the next start.
    pub fn api_set(&self, listen: Option<String>, reach: Reach) -> Outcome<ApiReport> {
        let api =
            self.api().ok_or_else(|| Problem::failed("The API is not there yet; try again in a moment."))?;
        match &listen {
            None => api.stop_tcp(),
            Some(text) => {
                let place = Place::parse(text, reach)?;
                api.listen_tcp(&place, Token::open_or_create(&self.paths.api_token())?)?;
            }
        }
        let path = self.paths.api_settings();
        let text = serde_json::to_string_pretty(&Settings { listen, reach }).unwrap_or_default() + "\n";
        let part = path.with_extension("new");
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| Problem::failed(format!("{} cannot be written: {error}.", path.display())))?;
        Ok(self.api_report())
    }
}
