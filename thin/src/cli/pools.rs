//! The verbs of `thin pool`.

use std::path::Path;

use serde_json::{Value, json};
use thin::{DataBlockSize, Device, Dm, DmName, Error, Features, Pool, PoolSpec, parse_bytes};

use super::Context;
use super::args::{PoolCreate, PoolVerb};
use super::report::Report;

pub(crate) fn perform(context: &Context, verb: PoolVerb) -> Result<Report, Error> {
    match verb {
        PoolVerb::Create(create) => {
            let pool = match &create.table {
                Some(line) => Pool::create_from_table(Dm::open()?, &context.pool, line)?,
                None => Pool::create(Dm::open()?, &spec(context, &create)?)?,
            };
            show(&pool)
        }
        PoolVerb::Adopt(adopt) => show(&Pool::adopt(Dm::open()?, &adopt.name)?),
        PoolVerb::Status(_) => show(&context.pool()?),
        PoolVerb::Down(_) => {
            let pool = context.pool()?;
            let name = pool.name().to_owned();
            pool.remove_pool()?;
            Ok(Report::Spoken(json!({"pool": name, "up": false}), format!("{name} is down")))
        }
    }
}

fn spec(context: &Context, create: &PoolCreate) -> Result<PoolSpec, Error> {
    let need = |what: &'static str, given: &Option<std::path::PathBuf>| match given {
        Some(path) => Device::open(path),
        None => Err(Error::Unit {
            what,
            value: String::new(),
            rule: "given, unless --table says it all",
        }),
    };
    let data = need("--data", &create.data)?;
    let metadata = need("--metadata", &create.metadata)?;
    let block = DataBlockSize::new(parse_bytes(&create.block_size)? / 512)?;
    let blocks = data.sectors.0 / block.sectors();
    Ok(PoolSpec {
        name: DmName::new(&context.pool)?,
        id: None,
        data,
        metadata,
        block,
        low_water: create.low_water.unwrap_or(blocks / 10),
        features: Features::safe(),
    })
}

/// Name, identity, devices and figures in one object.
pub(crate) fn show(pool: &Pool) -> Result<Report, Error> {
    let table = pool.table();
    let mut out = json!({
        "pool": pool.name(),
        "id": pool.id(),
        "dev": pool.dev().to_string(),
        "path": Path::new("/dev/mapper").join(pool.name()),
        "metadata_dev": table.metadata.to_string(),
        "data_dev": table.data.to_string(),
        "block_sectors": pool.block_sectors(),
        "low_water_blocks": table.low_water,
        "zeroing": !table.features.skip_block_zeroing,
    });
    let status = serde_json::to_value(pool.status()?).unwrap_or(Value::Null);
    if let (Value::Object(all), Value::Object(figures)) = (&mut out, status) {
        all.extend(figures);
    }
    Ok(Report::one(out))
}
