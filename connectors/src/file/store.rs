//! Where files are: a path or URL as an object store, a base, and which keys below the base are meant.

use std::fmt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tidemark_common::{Error, Result, SqlState};

use crate::options::Options;

/// Which keys below the base are files of the source.
#[derive(Debug, Clone)]
pub(super) enum Matching {
    All,
    One(Path),
    Glob(Pattern),
    /// A URL that may name an object or what is above objects: asked when it is first listed.
    OneOrAll(Path),
}

#[derive(Debug, Clone)]
pub(super) struct Location {
    /// Keys are below the base.
    pub store: Arc<dyn ObjectStore>,
    pub matching: Matching,
    /// For messages: the base as the user would write it.
    pub base: String,
    /// The base on the local file system.
    pub local: Option<PathBuf>,
}

/// Credentials and endpoint of an S3 or like service.
#[derive(Clone, Default)]
pub(super) struct S3Options {
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
    allow_http: bool,
}

/// Without what must not be seen in a log.
impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("allow_http", &self.allow_http)
            .finish_non_exhaustive()
    }
}

impl S3Options {
    pub fn parse(options: &mut Options) -> Result<Self> {
        Ok(Self {
            endpoint: options.take("s3.endpoint"),
            region: options.take("s3.region"),
            access_key_id: options.take("s3.access_key_id"),
            secret_access_key: options.take("s3.secret_access_key"),
            session_token: options.take("s3.session_token"),
            allow_http: options.bool("s3.allow_http")?.unwrap_or(false),
        })
    }

    fn store(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        // Without keys, those of the environment or the machine's role count.
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_allow_http(self.allow_http);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(id) = &self.access_key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(secret) = &self.secret_access_key {
            builder = builder.with_secret_access_key(secret);
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token);
        }
        Ok(Arc::new(builder.build().map_err(|e| Error::invalid(format!("cannot use bucket \"{bucket}\": {e}")))?))
    }
}

impl Location {
    /// What a source reads. A local path must exist.
    pub fn to_read(path: &str, s3: &S3Options) -> Result<Self> {
        match path.split_once("://") {
            None => Self::local(FsPath::new(path)),
            Some(("file", rest)) => Self::local(FsPath::new(rest)),
            Some((scheme, rest)) => {
                let (store, key) = remote(scheme, rest, path, s3)?;
                Self::below(store, &key, path)
            }
        }
    }

    /// The directory into which a sink writes.
    pub fn to_write(path: &str, s3: &S3Options) -> Result<Self> {
        let dir = match path.split_once("://") {
            None => FsPath::new(path),
            Some(("file", rest)) => FsPath::new(rest),
            Some((scheme, rest)) => {
                let (store, key) = remote(scheme, rest, path, s3)?;
                let prefix = Path::parse(key.trim_matches('/')).map_err(|e| store_error(e.into(), path))?;
                let store = Arc::new(PrefixStore::new(store, prefix));
                return Ok(Self { store, matching: Matching::All, base: path.to_string(), local: None });
            }
        };
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::from(e).context(format!("cannot make directory \"{path}\"")))?;
        Self::local_dir(dir, Matching::All)
    }

    fn local(path: &FsPath) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let shown = path.display().to_string();
        if let Some((base, pattern)) = split_glob(&shown) {
            return Self::local_dir(FsPath::new(base), Matching::Glob(compile(pattern)?));
        }
        let meta = std::fs::metadata(&path).map_err(|e| cannot_read(e, &shown))?;
        if meta.is_dir() {
            return Self::local_dir(&path, Matching::All);
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            return Err(Error::invalid(format!("\"{shown}\" does not name a file")));
        };
        let name = Path::parse(name).map_err(|e| store_error(e.into(), &shown))?;
        Self::local_dir(dir, Matching::One(name))
    }

    fn local_dir(dir: &FsPath, matching: Matching) -> Result<Self> {
        let shown = dir.display().to_string();
        let dir = dir.canonicalize().map_err(|e| cannot_read(e, &shown))?;
        let store = LocalFileSystem::new_with_prefix(&dir).map_err(|e| store_error(e, &shown))?;
        Ok(Self { store: Arc::new(store), matching, base: shown, local: Some(dir) })
    }

    /// `key`: a key, a prefix, or a glob, in `store`.
    pub fn below(store: Arc<dyn ObjectStore>, key: &str, shown: &str) -> Result<Self> {
        let (base, matching) = match split_glob(key) {
            Some((base, pattern)) => (base, Matching::Glob(compile(pattern)?)),
            None if key.is_empty() || key.ends_with('/') => (key, Matching::All),
            None => match key.rsplit_once('/') {
                Some((base, name)) => (base, Matching::OneOrAll(Path::from(name))),
                None => ("", Matching::OneOrAll(Path::from(key))),
            },
        };
        let prefix = Path::parse(base.trim_matches('/')).map_err(|e| store_error(e.into(), shown))?;
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, prefix));
        Ok(Self { store, matching, base: shown.to_string(), local: None })
    }

    /// The files that are there now, in key order.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>> {
        let error = |e| store_error(e, &self.base);
        let prefix = match &self.matching {
            // That it was there has been checked; a file that is taken away after it was read is no error.
            Matching::One(key) => match self.head(key).await {
                Ok(meta) => return Ok(vec![meta]),
                Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
                Err(other) => return Err(error(other)),
            },
            Matching::OneOrAll(key) => match self.head(key).await {
                Ok(meta) => return Ok(vec![meta]),
                Err(object_store::Error::NotFound { .. }) => Some(key),
                Err(other) => return Err(error(other)),
            },
            Matching::All | Matching::Glob(_) => None,
        };
        let mut found: Vec<ObjectMeta> = self
            .store
            .list(prefix)
            .try_filter(|meta| std::future::ready(self.matches(&meta.location)))
            .try_collect()
            .await
            .map_err(error)?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// What the store knows of a file. (A store below a prefix answers with the whole key.)
    pub async fn head(&self, key: &Path) -> object_store::Result<ObjectMeta> {
        Ok(ObjectMeta { location: key.clone(), ..self.store.head(key).await? })
    }

    fn matches(&self, key: &Path) -> bool {
        let hidden = key.as_ref().is_empty() || key.parts().any(|part| part.as_ref().starts_with(['_', '.']));
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        !hidden
            && match &self.matching {
                Matching::Glob(pattern) => pattern.matches_with(key.as_ref(), options),
                _ => true,
            }
    }

    /// A file for messages.
    pub fn show(&self, key: &Path) -> String {
        match &self.local {
            Some(dir) => dir.join(key.as_ref()).display().to_string(),
            None => format!("{} ({key})", self.base),
        }
    }
}

/// The store of a URL and the key in it.
fn remote(scheme: &str, rest: &str, shown: &str, s3: &S3Options) -> Result<(Arc<dyn ObjectStore>, String)> {
    let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
    match scheme {
        "s3" | "s3a" if !host.is_empty() => Ok((s3.store(host)?, key.to_string())),
        "s3" | "s3a" => Err(Error::invalid(format!("\"{shown}\" names no bucket"))),
        other => Err(Error::unsupported(format!("paths of the kind \"{other}://\" are not supported"))
            .with_hint("A local path, file:// or s3:// (with s3.endpoint for other services of its kind).")),
    }
}

/// A path with wildcards: the directories before the first of them, and the rest.
fn split_glob(path: &str) -> Option<(&str, &str)> {
    let wildcard = path.find(['*', '?', '['])?;
    Some(match path[..wildcard].rfind('/') {
        Some(slash) => (&path[..slash.max(1)], &path[slash + 1..]),
        None => ("", path),
    })
}

fn compile(pattern: &str) -> Result<Pattern> {
    Pattern::new(pattern).map_err(|e| Error::invalid(format!("the pattern \"{pattern}\" cannot be used: {e}")))
}

fn cannot_read(error: std::io::Error, path: &str) -> Error {
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let ours = Error::from(error).context(format!("cannot read \"{path}\""));
    if missing {
        ours.with_hint("The path is the server's, relative to the directory it was started in.")
    } else {
        ours
    }
}

/// An error of the store about `what`.
pub(super) fn store_error(error: object_store::Error, what: &str) -> Error {
    let state = match &error {
        object_store::Error::NotFound { .. } => SqlState::UndefinedFile,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            SqlState::InsufficientPrivilege
        }
        _ => SqlState::IoError,
    };
    Error::new(state, format!("cannot use \"{what}\": {error}"))
}
