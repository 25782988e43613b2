// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";

/// @notice The escrow's state out of its logs, and of nothing else: no call, no storage, no
/// calldata, no clock. What an indexer, an auditor or a node that lost its disk would do.
contract Replay {
    struct Sheet {
        uint256 free;
        uint256 stake;
        uint256 thawing;
        uint256 thawedAt;
    }

    struct Entry {
        address requester;
        address provider;
        address token;
        uint96 deposit;
        uint96 collateral;
        uint96 bond;
        uint256 units;
        uint256 end;
        uint256 slashed;
    }

    /// @dev The data of Opened.
    struct Said {
        address token;
        uint96 deposit;
        uint96 collateral;
        uint96 bond;
        uint256 units;
        uint40 openedAt;
        uint40 challengeFrom;
        uint256 end;
    }

    mapping(address => mapping(address => Sheet)) public sheets;
    mapping(address => mapping(address => mapping(address => uint256[2]))) internal _allowances;
    mapping(address => uint256) public burned;
    mapping(address => uint256) public units;
    mapping(bytes32 => Entry) public entries;
    mapping(bytes32 => IEscrowTypes.Agreement) internal _agreements;
    uint256 public skipped;

    function agreement(bytes32 id) external view returns (IEscrowTypes.Agreement memory) {
        return _agreements[id];
    }

    function allowance(address account, address operator, address token)
        external
        view
        returns (uint256, uint256)
    {
        uint256[2] memory given = _allowances[account][operator][token];
        return (given[0], given[1]);
    }

    /// @param escrow logs of others, tokens among them, are passed over
    function feed(Vm.Log[] memory logs, address escrow) external {
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != escrow || _undone(logs, i)) continue;
            _read(logs[i].topics, logs[i].data);
        }
    }

    /// @dev forge also records what a call logged that failed inside settleMany; a chain does not.
    function _undone(Vm.Log[] memory logs, uint256 i) private pure returns (bool) {
        return i + 1 < logs.length && logs[i].topics[0] == IEscrowEvents.Claimed.selector
            && logs[i + 1].topics[0] == IEscrowEvents.SettleSkipped.selector
            && logs[i].topics[1] == logs[i + 1].topics[1];
    }

    function _read(bytes32[] memory topics, bytes memory data) private {
        bytes32 kind = topics[0];
        if (
            kind == IEscrowEvents.Authorised.selector || kind == IEscrowEvents.Revoked.selector
                || kind == IEscrowEvents.AllowanceUsed.selector
        ) {
            _authorisation(kind, topics, data);
        } else if (
            kind == IEscrowEvents.Deposited.selector || kind == IEscrowEvents.Withdrawn.selector
                || kind == IEscrowEvents.Staked.selector
                || kind == IEscrowEvents.UnstakeStarted.selector
                || kind == IEscrowEvents.Unstaked.selector
        ) {
            _account(kind, sheets[_address(topics[1])][_address(topics[2])], data);
        } else if (kind == IEscrowEvents.Opened.selector) {
            _opened(topics, data);
        } else {
            _changed(kind, topics, data);
        }
    }

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }

    function _authorisation(bytes32 kind, bytes32[] memory topics, bytes memory data) private {
        uint256[2] storage given =
            _allowances[_address(topics[1])][_address(topics[2])][_address(topics[3])];
        if (kind == IEscrowEvents.Authorised.selector) {
            (given[0], given[1]) = abi.decode(data, (uint256, uint256));
        } else if (kind == IEscrowEvents.Revoked.selector) {
            (given[0], given[1]) = (0, 0);
        } else if (given[0] != type(uint128).max) {
            given[0] -= abi.decode(data, (uint256));
        }
    }

    function _account(bytes32 kind, Sheet storage sheet, bytes memory data) private {
        if (kind == IEscrowEvents.Deposited.selector) {
            (, uint256 deposited) = abi.decode(data, (address, uint256));
            sheet.free += deposited;
        } else if (kind == IEscrowEvents.UnstakeStarted.selector) {
            uint256 unstaked;
            (unstaked, sheet.thawing, sheet.thawedAt) =
                abi.decode(data, (uint256, uint256, uint256));
            sheet.stake -= unstaked;
        } else {
            uint256 amount = abi.decode(data, (uint256));
            if (kind == IEscrowEvents.Withdrawn.selector) {
                sheet.free -= amount;
            } else if (kind == IEscrowEvents.Staked.selector) {
                sheet.free -= amount;
                sheet.stake += amount;
            } else {
                (sheet.thawing, sheet.thawedAt) = (0, 0);
                sheet.free += amount;
            }
        }
    }

    function _opened(bytes32[] memory topics, bytes memory data) private {
        Entry storage e = entries[topics[1]];
        IEscrowTypes.Agreement storage a = _agreements[topics[1]];
        Said memory said = abi.decode(data, (Said));
        (e.requester, e.provider) = (_address(topics[2]), _address(topics[3]));
        (e.token, e.units, e.end) = (said.token, said.units, said.end);
        (e.deposit, e.collateral, e.bond) = (said.deposit, said.collateral, said.bond);
        (a.openedAt, a.deadline) = (said.openedAt, said.challengeFrom);
        a.status = IEscrowTypes.Status.Open;
        a.bonded = true;
        sheets[e.token][e.requester].free -= uint256(e.deposit) + e.bond;
        sheets[e.token][e.provider].stake -= e.collateral;
        units[e.provider] |= e.units;
    }

    function _changed(bytes32 kind, bytes32[] memory topics, bytes memory data) private {
        bytes32 id = topics[1];
        Entry storage e = entries[id];
        IEscrowTypes.Agreement storage a = _agreements[id];
        if (kind == IEscrowEvents.Claimed.selector) {
            (uint96 paid, uint96 offline) = abi.decode(data, (uint96, uint96));
            sheets[e.token][e.provider].free += paid - a.paid;
            (a.paid, a.offline) = (paid, offline);
        } else if (kind == IEscrowEvents.Extended.selector) {
            (uint96 extra, uint32 longer) = abi.decode(data, (uint96, uint32));
            sheets[e.token][e.requester].free -= extra - a.extraDeposit;
            e.end += longer - a.extraDuration;
            (a.extraDeposit, a.extraDuration) = (extra, longer);
        } else if (kind == IEscrowEvents.Challenged.selector) {
            (a.nonce, a.deadline) = abi.decode(data, (uint48, uint40));
            a.status = IEscrowTypes.Status.Challenged;
        } else if (kind == IEscrowEvents.Answered.selector) {
            (, a.deadline) = abi.decode(data, (uint64, uint40));
            a.status = IEscrowTypes.Status.Open;
            _bondToProvider(e, a);
        } else if (kind == IEscrowEvents.Bonded.selector) {
            sheets[e.token][e.requester].free -= e.bond;
            a.bonded = true;
        } else if (kind == IEscrowEvents.Closing.selector) {
            a.deadline = abi.decode(data, (uint40));
            a.status = _address(topics[2]) == e.requester
                ? IEscrowTypes.Status.ClosingByRequester
                : IEscrowTypes.Status.ClosingByProvider;
        } else if (kind == IEscrowEvents.Disputed.selector) {
            a.deadline = abi.decode(data, (uint40));
            a.status = IEscrowTypes.Status.Disputed;
        } else if (kind == IEscrowEvents.Ruled.selector) {
            if (abi.decode(data, (uint256)) == 0) _bondToProvider(e, a);
        } else {
            _ended(kind, e, a, data);
        }
    }

    function _ended(
        bytes32 kind,
        Entry storage e,
        IEscrowTypes.Agreement storage a,
        bytes memory data
    ) private {
        if (kind == IEscrowEvents.Slashed.selector) {
            uint256 toVictim;
            uint256 burnt;
            (e.slashed, toVictim, burnt) = abi.decode(data, (uint256, uint256, uint256));
            sheets[e.token][e.requester].free += toVictim;
            burned[e.token] += burnt;
            a.status = IEscrowTypes.Status.Slashed;
        } else if (kind == IEscrowEvents.Closed.selector) {
            (, uint256 refunded) = abi.decode(data, (uint96, uint256));
            sheets[e.token][e.requester].free += refunded + (a.bonded ? e.bond : 0);
            sheets[e.token][e.provider].stake += e.collateral - e.slashed;
            units[e.provider] &= ~e.units;
            a.bonded = false;
            if (a.status != IEscrowTypes.Status.Slashed) a.status = IEscrowTypes.Status.Closed;
        } else if (kind == IEscrowEvents.Cancelled.selector) {
            a.status = IEscrowTypes.Status.Cancelled;
        } else if (kind == IEscrowEvents.SettleSkipped.selector) {
            ++skipped;
        } else {
            revert("an event nobody knows");
        }
    }

    function _bondToProvider(Entry storage e, IEscrowTypes.Agreement storage a) private {
        sheets[e.token][e.provider].free += e.bond;
        a.bonded = false;
    }
}
