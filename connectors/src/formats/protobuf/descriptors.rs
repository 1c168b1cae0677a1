//! Where the descriptor of a message comes from: the text of a `.proto` with what it imports, or a compiled set of descriptors.

use std::collections::HashMap;
use std::path::Path;

use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use tidemark_common::{Error, Result, SqlState, nearest};

use super::super::registry::{Fetched, SchemaKind};

/// What a text is called that no other imports.
const MAIN: &str = "the schema.proto";

/// The file of a schema out of a registry.
pub(super) fn from_registry(fetched: &Fetched) -> Result<FileDescriptor> {
    let fetched = fetched.of_kind(SchemaKind::Protobuf)?;
    let imports = fetched.references.iter().map(|named| (named.name.clone(), named.text.clone()));
    from_text(&fetched.text, imports.collect())
}

pub(super) fn from_text(text: &str, mut imports: HashMap<String, String>) -> Result<FileDescriptor> {
    imports.insert(MAIN.to_string(), text.to_string());
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(imports));
    resolver.add(GoogleFileResolver::new());
    let pool = compile(Compiler::with_file_resolver(resolver), MAIN)?;
    pool.get_file_by_name(MAIN).ok_or_else(|| Error::internal("a schema that was compiled is there"))
}

/// A `.proto`, which imports files beside it, or anything else as a set of descriptors.
pub(super) fn from_file(path: &Path) -> Result<DescriptorPool> {
    let in_file = |error: Error| error.context(format!("file \"{}\"", path.display()));
    if path.extension().is_some_and(|extension| extension == "proto") {
        // Whether it is there, and may be read, is said better by the system.
        std::fs::metadata(path).map_err(|error| in_file(error.into()))?;
        let beside = path.parent().unwrap_or(Path::new("/"));
        let compiler = Compiler::new([beside]).map_err(|error| in_file(wrong(&error)))?;
        let name = path.strip_prefix(beside).unwrap_or(path).to_string_lossy().into_owned();
        return compile(compiler, &name).map_err(in_file);
    }
    let bytes = std::fs::read(path).map_err(|error| in_file(error.into()))?;
    DescriptorPool::decode(bytes.as_slice()).map_err(|error| {
        in_file(wrong(&error)).with_hint("A file that does not end with .proto is a set of descriptors, as protoc --descriptor_set_out --include_imports writes it.")
    })
}

fn compile(mut compiler: Compiler, name: &str) -> Result<DescriptorPool> {
    compiler.include_imports(true);
    compiler.open_file(name).map_err(|error| wrong(&error))?;
    Ok(compiler.descriptor_pool())
}

/// The message of this name.
pub(super) fn message(pool: &DescriptorPool, name: &str) -> Result<MessageDescriptor> {
    pool.get_message_by_name(name).ok_or_else(|| {
        let known: Vec<String> = pool.all_messages().map(|message| message.full_name().to_string()).collect();
        let own = known.iter().map(String::as_str).filter(|known| !known.starts_with("google.protobuf."));
        let error = Error::new(SqlState::UndefinedObject, format!("the Protobuf schema has no message \"{name}\""));
        match nearest(name, own.clone()) {
            Some(near) => error.with_hint(format!("Perhaps it is message = '{near}'.")),
            None => error.with_detail(format!("It has: {}.", own.collect::<Vec<_>>().join(", "))),
        }
    })
}

/// The message that lies at these places, one within the other. Entries of maps do not count: no text has them.
pub(super) fn message_at(file: &FileDescriptor, path: &[usize]) -> Option<MessageDescriptor> {
    let (first, rest) = path.split_first()?;
    let mut message = file.messages().nth(*first)?;
    for place in rest {
        let inner = message.child_messages().filter(|child| !child.is_map_entry()).nth(*place);
        message = inner?;
    }
    Some(message)
}

struct Texts(HashMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn wrong(error: &dyn std::fmt::Display) -> Error {
    Error::new(SqlState::InvalidObjectDefinition, format!("the Protobuf schema cannot be read: {error}"))
}
