//! The verbs of `thin pool`.

use std::path::Path;

use serde_json::{Value, json};
use thin::{
    DataBlockSize, Device, Dm, DmName, Error, Features, Garbled, InitOptions, Kind, Pool, PoolSpec,
    RepairAct, RestoreOptions, Store, UpOptions, WhenFull,
};

use crate::cli::Context;
use crate::cli::pool_args::{PoolCreate, PoolInit, PoolVerb};
use crate::cli::report::Report;

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
        PoolVerb::Status(status) => match status.dir {
            Some(dir) => {
                let (store, dm) = (Store::open(&dir)?, Dm::open()?);
                let pool = store.header().name.clone();
                show(&store.live(&dm)?.ok_or(Error::PoolMissing { pool })?)
            }
            None => show(&context.pool()?),
        },
        PoolVerb::Down(down) => match down.dir {
            Some(dir) => {
                let was_up = Store::open(&dir)?.down(&Dm::open()?)?;
                let text = if was_up { "the pool is down" } else { "the pool was not up" };
                let row = json!({"dir": dir, "was_up": was_up, "up": false});
                Ok(Report::Spoken(row, text.to_owned()))
            }
            None => {
                let pool = context.pool()?;
                let name = pool.name().to_owned();
                pool.remove_pool()?;
                Ok(Report::Spoken(json!({"pool": name, "up": false}), format!("{name} is down")))
            }
        },
        PoolVerb::Init(init) => {
            let (_, up) = Store::init(Dm::open()?, &init.dir, &init_options(context, &init)?)?;
            show(&up.pool)
        }
        PoolVerb::Up(up) => {
            let options = UpOptions {
                expected_transaction: up.expect_transaction,
                rescue: up.rescue,
                moved: up.moved,
            };
            let up = Store::open(&up.dir)?.up(Dm::open()?, options)?;
            let mut report = figures(&up.pool)?;
            if let Value::Object(all) = &mut report {
                all.insert("was_up".to_owned(), json!(up.was_up));
                all.insert("released_held_root".to_owned(), json!(up.released_held_root));
                all.insert("tidied".to_owned(), json!(up.tidied));
            }
            Ok(Report::one(report))
        }
        PoolVerb::Grow(grow) => {
            let (data, metadata) = (grow.data.map(|size| size.0), grow.metadata.map(|size| size.0));
            if data.or(metadata).is_none() {
                let header = Store::open(&grow.dir)?.header().clone();
                return Err(Error::NoSize {
                    dir: grow.dir,
                    data: header.data.bytes,
                    metadata: header.metadata.bytes,
                });
            }
            Store::open(&grow.dir)?.grow(&Dm::open()?, data, metadata).map(Report::one)
        }
        PoolVerb::Repair(repair) => {
            let dm = dm_if_any()?;
            let mut store = Store::open(&repair.dir)?;
            if repair.moved {
                store.take_moved()?;
            }
            let repaired = store.repair(dm.as_ref(), repair.dry_run)?;
            let well = repaired.act != RepairAct::NeedsRepair;
            Ok(Report::Answer(well, serde_json::to_value(repaired).unwrap_or(Value::Null)))
        }
        PoolVerb::Backup(backup) => {
            let head = match &backup.dir {
                Some(dir) => Store::open(dir)?.backup(dm_if_any()?.as_ref(), &backup.file)?,
                None => context.pool()?.backup(&backup.file)?,
            };
            Ok(Report::one(head))
        }
        PoolVerb::Restore(restore) => {
            let options = RestoreOptions { older: restore.older, dry_run: restore.dry_run };
            let dm = dm_if_any()?;
            let mut store = Store::open(&restore.dir)?;
            store.restore(dm.as_ref(), &restore.file, options).map(Report::one)
        }
        PoolVerb::WhenFull(when) => {
            let when_full = match when.what.as_str() {
                "error" => WhenFull::Error,
                "queue" => WhenFull::Queue,
                other => {
                    let value = other.to_owned();
                    return Err(
                        Garbled::Unit { what: "when-full", value, rule: "error or queue" }.into()
                    );
                }
            };
            let mut pool = context.pool()?;
            pool.set_when_full(when_full)?;
            show(&pool)
        }
    }
}

/// A host without device-mapper cannot have a pool up.
fn dm_if_any() -> Result<Option<Dm>, Error> {
    match Dm::open() {
        Ok(dm) => Ok(Some(dm)),
        Err(err) if err.kind() == Kind::NoDeviceMapper => Ok(None),
        Err(err) => Err(err),
    }
}

fn init_options(context: &Context, init: &PoolInit) -> Result<InitOptions, Error> {
    let data_bytes = match (init.data, &init.data_dev) {
        (Some(size), None) => size.0,
        (None, Some(_)) => 0,
        (data, Some(_) | None) => {
            let value = data.map_or_else(String::new, |size| size.0.to_string());
            let rule = "given, or --data-dev in its place, and not both";
            return Err(Garbled::Unit { what: "--data", value, rule }.into());
        }
    };
    Ok(InitOptions {
        name: DmName::new(&context.pool)?,
        data_bytes,
        metadata_bytes: init.metadata.map(|size| size.0),
        block: DataBlockSize::new(init.block_size.0 / 512)?,
        data_device: init.data_dev.clone(),
        metadata_device: init.meta_dev.clone(),
        sparse: init.sparse,
    })
}

fn spec(context: &Context, create: &PoolCreate) -> Result<PoolSpec, Error> {
    let need = |what: &'static str, given: &Option<std::path::PathBuf>| match given {
        Some(path) => Device::open(path),
        None => Err(Garbled::Unit {
            what,
            value: String::new(),
            rule: "given, unless --table says it all",
        }
        .into()),
    };
    let data = need("--data", &create.data)?;
    let metadata = need("--metadata", &create.metadata)?;
    let block = DataBlockSize::new(create.block_size.0 / 512)?;
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
    figures(pool).map(Report::one)
}

fn figures(pool: &Pool) -> Result<Value, Error> {
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
    Ok(out)
}
