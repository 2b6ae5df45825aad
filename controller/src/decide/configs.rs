//! Changes of topic, broker and group settings.
//!
//! Owns the arithmetic of set, delete, append and subtract. Does not own which values are valid: the broker checks the
//! result of [`resulting_configs`] before it asks.

use std::collections::BTreeMap;

use strandline_protocol::error_code::ErrorCode;

use crate::image::MetadataImage;
use crate::record::{ConfigMap, MetadataRecord, ResourceType};
use crate::request::{AlterConfigs, ConfigOp, Refused};

/// Settings of one resource after `request`, without its defaults.
pub fn resulting_configs(image: &MetadataImage, request: &AlterConfigs) -> ConfigMap {
    let before = image.configs(request.resource, &request.name);
    let mut after = match before {
        Some(map) if !request.replace_all => ConfigMap::clone(map),
        _ => BTreeMap::new(),
    };
    for (key, op) in &request.ops {
        match op {
            ConfigOp::Set(value) => {
                after.insert(key.clone(), value.clone());
            }
            ConfigOp::Delete => {
                after.remove(key);
            }
            ConfigOp::Append(values) => {
                let mut list = split_list(after.get(key));
                for value in values.split(',').map(str::trim) {
                    if !list.iter().any(|v| v == value) {
                        list.push(value.to_owned());
                    }
                }
                after.insert(key.clone(), list.join(","));
            }
            ConfigOp::Subtract(values) => {
                let mut list = split_list(after.get(key));
                list.retain(|v| !values.split(',').any(|gone| gone.trim() == v));
                after.insert(key.clone(), list.join(","));
            }
        }
    }
    after
}

fn split_list(value: Option<&String>) -> Vec<String> {
    value.map_or("", String::as_str).split(',').map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned).collect()
}

pub(super) fn alter(
    image: &MetadataImage,
    resources: &[AlterConfigs],
    validate_only: bool,
    out: &mut Vec<MetadataRecord>,
) -> Vec<Result<(), Refused>> {
    resources
        .iter()
        .map(|request| {
            check_resource(image, request)?;
            if !validate_only {
                push_difference(image, request, out);
            }
            Ok(())
        })
        .collect()
}

fn check_resource(image: &MetadataImage, request: &AlterConfigs) -> Result<(), Refused> {
    match request.resource {
        ResourceType::Topic if image.topic(&request.name).is_none() => Err(Refused::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("The topic '{}' does not exist.", request.name),
        )),
        ResourceType::Broker if !request.name.is_empty() => {
            let known = request.name.parse::<i32>().is_ok_and(|id| image.brokers.contains_key(&id));
            if known {
                Ok(())
            } else {
                let message = format!("Unknown broker '{}'; name a registered broker id, or none.", request.name);
                Err(Refused::new(ErrorCode::InvalidRequest, message))
            }
        }
        _ => Ok(()),
    }
}

fn push_difference(image: &MetadataImage, request: &AlterConfigs, out: &mut Vec<MetadataRecord>) {
    let after = resulting_configs(image, request);
    let none = ConfigMap::new();
    let before = image.configs(request.resource, &request.name).map_or(&none, |map| map);
    let mut push = |key: &String, value: Option<String>| {
        out.push(MetadataRecord::Config {
            resource: request.resource,
            name: request.name.clone(),
            key: key.clone(),
            value,
        });
    };
    for key in before.keys().filter(|k| !after.contains_key(*k)) {
        push(key, None);
    }
    for (key, value) in after.iter().filter(|(k, v)| before.get(*k) != Some(v)) {
        push(key, Some(value.clone()));
    }
}
